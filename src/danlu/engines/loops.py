"""What lies between a layer's products, in compiled loops: one pass over the numbers where torch takes six, and
attention that reads what a row holds, with nothing padded. Imported only where numba is (`looped.py`); each computes
what `pointwise.py` and `cached_attention.py` say, and is tested against them.

bf16 comes as the 16 bits it is, is widened on reading and rounded once, to the nearest even, on writing. Sums are fp32
in whatever order vector instructions like; nothing that is no number becomes one. A row of an array may be wider than
what is read of it.

Shapes: T tokens, D hidden or a head's size, F width of the feed-forward, H query heads, K key/value heads, S = H / K,
M places, N = (H + 2K) D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic, overload

_Loop = TypeVar("_Loop", bound=Callable[..., Any])
Array = np.ndarray[Any, np.dtype[Any]]
FREE = {"reassoc", "contract", "arcp", "nsz"}
"""What compilers may do to sums. Not among it: to suppose that every number is one."""
_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1), np.float32(0)
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST, _MOST = np.float32(-87), np.float32(88)
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_GELU_SLOPE, _GELU_CUBE = np.float32(2 * 0.7978845608028654), np.float32(0.044715)
_ROUND, _HIGH, _BIAS, _TWO = np.uint32(0x7FFF), np.uint32(16), np.int32(127), np.float32(2)


def _compiled(loop: _Loop) -> _Loop:
    """Compiled when it is first called with such arrays, without holding other threads up, and kept for the next
    process where that can be written."""
    try:
        return cast(_Loop, njit(cache=True, nogil=True, fastmath=FREE, error_model="numpy")(loop))
    except RuntimeError:
        return cast(_Loop, njit(nogil=True, fastmath=FREE, error_model="numpy")(loop))


def _woven(loop: _Loop) -> _Loop:
    return cast(_Loop, njit(nogil=True, fastmath=FREE, error_model="numpy", forceinline=True)(loop))


@intrinsic  # type: ignore[untyped-decorator]
def _float_of(_: Any, bits: Any) -> Any:
    """The fp32 number that 32 bits are."""
    return types.float32(types.uint32), lambda _, builder, __, given: builder.bitcast(given[0], ir.FloatType())


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of(_: Any, number: Any) -> Any:
    return types.uint32(types.float32), lambda _, builder, __, given: builder.bitcast(given[0], ir.IntType(32))


def _wide(number: Any) -> Any:
    """fp32 of what an array holds: bf16's bits, or fp32."""
    raise NotImplementedError


@overload(_wide, inline="always", strict=False)  # type: ignore[untyped-decorator]
def _wide_of(number: Any) -> Any:
    if number == types.uint16:
        return lambda number: _float_of(np.uint32(number) << _HIGH)
    return lambda number: number


def _put(array: Array, row: int, column: int, number: np.float32) -> None:
    """`array[row, column] = number`, rounded to what the array holds."""
    raise NotImplementedError


@overload(_put, inline="always", strict=False)  # type: ignore[untyped-decorator]
def _put_in(array: Any, row: Any, column: Any, number: Any) -> Any:
    if array.dtype == types.uint16:

        def put(array: Any, row: Any, column: Any, number: Any) -> None:
            bits = _bits_of(number)
            array[row, column] = np.uint16((bits + _ROUND + ((bits >> _HIGH) & np.uint32(1))) >> _HIGH)
    else:

        def put(array: Any, row: Any, column: Any, number: Any) -> None:
            array[row, column] = number

    return put


@_woven
def _exp(x: Any) -> Any:
    """e^x to two units in the last place, from e^-87 to e^88: Cephes' expf (Moshier) without branches. NaN stays."""
    x = _LEAST if x < _LEAST else x
    x = _MOST if x > _MOST else x
    power = np.floor(x * _LOG2_E + _HALF)
    rest = x - power * _LN2_HIGH - power * _LN2_LOW
    sum_ = ((((_P0 * rest + _P1) * rest + _P2) * rest + _P3) * rest + _P4) * rest + _P5
    number = sum_ * rest * rest + rest + _ONE
    return number * _float_of(np.uint32(np.int32(power) + _BIAS) << np.uint32(23))


@_compiled
def add_norm(x_TD: Array, more_TD: Array, has_more: bool, weight_D: Array, eps: np.float32, out_TD: Array) -> None:
    """x += more; out = its RMSNorm."""
    num_tokens, size = x_TD.shape
    for t in range(num_tokens):
        squares = _ZERO
        if has_more:
            for d in range(size):
                x_TD[t, d] += _wide(more_TD[t, d])
        for d in range(size):
            squares += x_TD[t, d] * x_TD[t, d]
        scale = _ONE / np.sqrt(squares / np.float32(size) + eps)
        for d in range(size):
            _put(out_TD, t, d, x_TD[t, d] * scale * weight_D[d])


@_compiled
def gate(wide_TE: Array, is_gelu: bool, out_TF: Array) -> None:
    """out = silu(gate) * up, or gelu's tanh approximation in its place; both are the gate times a sigmoid."""
    num_tokens, size = out_TF.shape
    for t in range(num_tokens):
        if is_gelu:
            for f in range(size):
                g = _wide(wide_TE[t, f])
                slope = _GELU_SLOPE * (g + _GELU_CUBE * g * g * g)
                _put(out_TF, t, f, g / (_ONE + _exp(-slope)) * _wide(wide_TE[t, size + f]))
        else:
            for f in range(size):
                g = _wide(wide_TE[t, f])
                _put(out_TF, t, f, g / (_ONE + _exp(-g)) * _wide(wide_TE[t, size + f]))


@_woven
def _turned(
    qkv_TN: Array,
    t: int,
    first: int,
    turn_TF2: Array,
    weight_D: Array,
    eps: np.float32,
    scale: np.float32,
    out_D: Array,
) -> None:
    """One head of one token, normed where it has a norm, rotated, times `scale`. Pairs lie side by side."""
    size = len(out_D)
    for d in range(size):
        out_D[d] = _wide(qkv_TN[t, first + d])
    if len(weight_D):
        squares = _ZERO
        for d in range(size):
            squares += out_D[d] * out_D[d]
        scale_norm = _ONE / np.sqrt(squares / np.float32(size) + eps)
        for d in range(size):
            out_D[d] *= scale_norm * weight_D[d]
    for f in range(size // 2):
        a, b = out_D[2 * f] * scale, out_D[2 * f + 1] * scale
        out_D[2 * f] = a * turn_TF2[t, f, 0] - b * turn_TF2[t, f, 1]
        out_D[2 * f + 1] = a * turn_TF2[t, f, 1] + b * turn_TF2[t, f, 0]


@_compiled
def attend(
    qkv_TN: Array, turn_TF2: Array, begin: int, row_T: Array, place_T: Array, keys_BKMD: Array, values_BKMD: Array,
    scale: np.float32, cap: np.float32, window: int, q_norm_D: Array, k_norm_D: Array, eps: np.float32, out_TX: Array,
) -> None:  # fmt: skip
    """Tokens from `begin` on, each in a row of a table at a place: their keys and values are written there, and each
    query meets what its row holds up to its own place, `window` places at most. A `cap` of 0 is none."""
    num_kv, num_places, size = keys_BKMD.shape[1], keys_BKMD.shape[2], keys_BKMD.shape[3]
    num_shared = out_TX.shape[1] // size // num_kv
    num_heads = num_kv * num_shared
    turned_D, sum_D, scores_M = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(num_places, np.float32)
    for n in range(len(row_T)):
        t, row, place = begin + n, row_T[n], place_T[n]
        for k in range(num_kv):
            keys_MD, values_MD, first = keys_BKMD[row, k], values_BKMD[row, k], (num_heads + num_kv + k) * size
            _turned(qkv_TN, t, (num_heads + k) * size, turn_TF2, k_norm_D, eps, _ONE, turned_D)
            for d in range(size):
                _put(keys_MD, place, d, turned_D[d])
                _put(values_MD, place, d, _wide(qkv_TN[t, first + d]))
    for n in range(len(row_T)):
        t, row, place = begin + n, row_T[n], place_T[n]
        first = max(0, place + 1 - window)
        for head in range(num_heads):
            keys_MD, values_MD = keys_BKMD[row, head // num_shared], values_BKMD[row, head // num_shared]
            _turned(qkv_TN, t, head * size, turn_TF2, q_norm_D, eps, scale, turned_D)
            top = np.float32(-np.inf)
            for m in range(first, place + 1):
                score = _ZERO
                for d in range(size):
                    score += turned_D[d] * _wide(keys_MD[m, d])
                if cap > 0:
                    score = cap - _TWO * cap / (_exp(_TWO * score / cap) + _ONE)  # cap * tanh(score / cap)
                scores_M[m] = score
                top = max(top, score)
            whole = _ZERO
            for m in range(first, place + 1):
                scores_M[m] = _exp(scores_M[m] - top)
                whole += scores_M[m]
            for d in range(size):
                sum_D[d] = _ZERO
            for m in range(first, place + 1):
                weight = scores_M[m]
                for d in range(size):
                    sum_D[d] += weight * _wide(values_MD[m, d])
            for d in range(size):
                _put(out_TX, t, head * size + d, sum_D[d] / whole)
