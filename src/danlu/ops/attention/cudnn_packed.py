"""cuDNN's attention over a packed row of documents of any lengths, through NVIDIA's own front end (the package
`nvidia-cudnn-frontend`), with plans that we keep.

A plan knows how many documents and how long the longest may be, so both are rounded up to buckets (`bounds`); lengths
and offsets are data. That makes a handful of plans in a training, 40 to 80 ms each, where torch's own binding up to
2.13 builds one in every call. Deterministic on request. Padding tokens must be documents too, as everywhere here.

Shapes: T tokens of all documents, N documents (rounded up), L their longest (rounded up), H query heads, K key/value
heads, D head size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from danlu.ops.attention.cudnn import cudnn_fits
from danlu.ops.attention.kernel import Ask, Heads, Saved, packed

LARGEST_OFFSET = 2**31
FEWEST_TOKENS = 1024  # of a plan's workspace


class CudnnPacked:
    name = "cuDNN packed"
    is_deterministic = True

    def fits(self, heads: Heads, ask: Ask) -> bool:
        return cudnn_fits(heads) and ask.softcap is None and has_front_end()

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        out_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        lse_TH = torch.empty(q_THD.shape[:2], dtype=torch.float32, device=q_THD.device)
        plan = _forward_plan(_Shape.of(q_THD, k_TKD, v_TKD, ask, is_backward=False))
        plan.run(ask, {"q": q_THD, "k": k_TKD, "v": v_TKD, "out": out_THD, "lse": lse_TH})
        return out_THD, (lse_TH,)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_THD, k_TKD, v_TKD))
        plan = _backward_plan(_Shape.of(q_THD, k_TKD, v_TKD, ask, is_backward=True))
        given = {"q": q_THD, "k": k_TKD, "v": v_TKD, "out": out_THD, "lse": saved[0], "grad": packed(grad_THD)}
        plan.run(ask, {**given, "dq": dq, "dk": dk, "dv": dv})
        return dq, dk, dv


@functools.cache
def has_front_end() -> bool:
    return find_spec("cudnn") is not None


@functools.cache
def _front_end() -> Any:
    import cudnn  # type: ignore[import-not-found]  # an optional package, and only CUDA needs it

    return cudnn


@functools.lru_cache(maxsize=4)
def _session(device: torch.device) -> Any:
    return _front_end().create_handle()


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a plan is built for; equal shapes share one."""

    device: torch.device
    dtype: torch.dtype
    num_documents: int
    longest: int
    num_tokens: int
    """Rounded up; the backward's workspace."""
    num_heads: int
    num_kv_heads: int
    head_size: int
    strides: tuple[int, int, int]
    """From token to token in q, k, v."""
    scale: float
    window: int | None
    is_deterministic: bool

    @classmethod
    def of(cls, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask, *, is_backward: bool) -> _Shape:
        bounds = ask.bounds
        strides = (q_THD.stride(0), k_TKD.stride(0), v_TKD.stride(0))
        assert max(strides) * len(q_THD) < LARGEST_OFFSET, "offsets into the row are 32 bits wide"
        return cls(
            q_THD.device, q_THD.dtype, bounds.count_bucket, bounds.length_bucket,
            max(FEWEST_TOKENS, 1 << (len(q_THD) - 1).bit_length()) if is_backward else 0,
            q_THD.shape[1], k_TKD.shape[1], q_THD.shape[2], strides, ask.scale,
            ask.window if ask.needs_window else None,
            is_backward and torch.are_deterministic_algorithms_enabled(),
        )  # fmt: skip


class _Graph:
    """One cuDNN graph while it is described, and its plan once it is built."""

    def __init__(self, shape: _Shape) -> None:
        cudnn = _front_end()
        self._shape, self._int32, self._float32 = shape, cudnn.data_type.INT32, cudnn.data_type.FLOAT
        self._io = {torch.bfloat16: cudnn.data_type.BFLOAT16, torch.float16: cudnn.data_type.HALF}[shape.dtype]
        self._graph = cudnn.pygraph(
            io_data_type=self._io, intermediate_data_type=self._float32, compute_data_type=self._float32,
            handle=_session(shape.device),
        )  # fmt: skip
        self._tensors: dict[str, Any] = {}
        self._factors: dict[str, int] = {}
        """Of each tensor of offsets: elements from token to token."""
        self._names: dict[str, int] = {}
        self._workspace_bytes = 1
        self._lengths = self._tensors["lengths"] = self._graph.tensor(
            name="lengths", dim=[shape.num_documents, 1, 1, 1], stride=[1, 1, 1, 1], data_type=self._int32
        )

    def row(self, name: str, num_heads: int, stride: int) -> Any:
        """A packed row of heads as an input."""
        dims, strides = self._layout(num_heads, stride)
        tensor = self._graph.tensor(name=name, dim=dims, stride=strides, data_type=self._io)
        tensor.set_ragged_offset(self._offsets(stride))
        self._tensors[name] = tensor
        return tensor

    def output(self, name: str, tensor: Any, num_heads: int) -> None:
        stride = num_heads * self._shape.head_size
        dims, strides = self._layout(num_heads, stride)
        tensor.set_output(True).set_dim(dims).set_stride(strides).set_data_type(self._io)
        tensor.set_ragged_offset(self._offsets(stride))
        self._tensors[name] = tensor

    def lse(self, tensor: Any = None) -> Any:
        """The log-sum-exp, [T, H] fp32: an output where a tensor is given, else an input."""
        N, L, H = self._shape.num_documents, self._shape.longest, self._shape.num_heads
        dims, strides = [N, H, L, 1], [L * H, 1, H, 1]
        if tensor is None:
            tensor = self._graph.tensor(name="lse", dim=dims, stride=strides, data_type=self._float32)
        else:
            tensor.set_output(True).set_dim(dims).set_stride(strides).set_data_type(self._float32)
        tensor.set_ragged_offset(self._offsets(H))
        self._tensors["lse"] = tensor
        return tensor

    def _layout(self, num_heads: int, stride: int) -> tuple[list[int], list[int]]:
        N, L, D = self._shape.num_documents, self._shape.longest, self._shape.head_size
        return [N, num_heads, L, D], [L * stride, D, stride, 1]

    def _offsets(self, stride: int) -> Any:
        """Where documents begin, in elements; shared by all rows with this stride."""
        name = f"offsets {stride}"
        if name not in self._tensors:
            dims = [self._shape.num_documents + 1, 1, 1, 1]
            self._tensors[name] = self._graph.tensor(name=name, dim=dims, stride=[1, 1, 1, 1], data_type=self._int32)
            self._factors[name] = stride
        return self._tensors[name]

    def mask(self) -> dict[str, Any]:
        """Causal within each document; a window where one is asked for."""
        window = {} if self._shape.window is None else {"sliding_window_length": self._shape.window}
        return {
            "use_causal_mask": True, "use_padding_mask": True, "seq_len_q": self._lengths, "seq_len_kv": self._lengths,
            "attn_scale": self._shape.scale, **window,
        }  # fmt: skip

    def sdpa(self, q: Any, k: Any, v: Any) -> Any:
        return self._graph.sdpa(name="attention", q=q, k=k, v=v, is_inference=False, **self.mask())

    def sdpa_backward(self, q: Any, k: Any, v: Any, out: Any, grad: Any, lse: Any) -> Any:
        tokens = self._shape.num_tokens
        return self._graph.sdpa_backward(
            name="attention_backward", q=q, k=k, v=v, o=out, dO=grad, stats=lse,
            max_total_seq_len_q=tokens, max_total_seq_len_kv=tokens,
            use_deterministic_algorithm=self._shape.is_deterministic, **self.mask(),
        )  # fmt: skip

    def build(self) -> _Graph:
        modes = _front_end().heur_mode
        self._graph.validate()
        self._graph.build_operation_graph()
        self._graph.create_execution_plans([modes.A, modes.FALLBACK])
        self._graph.check_support()
        self._graph.build_plans()
        self._names = {name: tensor.get_uid() for name, tensor in self._tensors.items()}
        self._workspace_bytes = max(1, self._graph.get_workspace_size())
        return self

    def run(self, ask: Ask, tensors: dict[str, Tensor]) -> None:
        device = self._shape.device
        cu = ask.bounds.tensor(device, self._shape.num_documents)
        given = {**tensors, "lengths": ask.bounds.derived(("lengths", len(cu)), device, cu.diff)}
        for name, factor in self._factors.items():
            given[name] = ask.bounds.derived((factor, len(cu)), device, functools.partial(cu.mul, factor))
        session = _session(device)
        _front_end().set_stream(handle=session, stream=torch.cuda.current_stream(device).cuda_stream)
        workspace = torch.empty(self._workspace_bytes, dtype=torch.uint8, device=device)
        pointers = {self._names[name]: tensor.data_ptr() for name, tensor in given.items()}
        self._graph.execute(pointers, workspace.data_ptr(), handle=session)


@functools.lru_cache(maxsize=256)
def _forward_plan(shape: _Shape) -> _Graph:
    graph = _Graph(shape)
    q_stride, k_stride, v_stride = shape.strides
    q = graph.row("q", shape.num_heads, q_stride)
    k = graph.row("k", shape.num_kv_heads, k_stride)
    v = graph.row("v", shape.num_kv_heads, v_stride)
    out, lse = graph.sdpa(q, k, v)
    graph.output("out", out, shape.num_heads)
    graph.lse(lse)
    return graph.build()


@functools.lru_cache(maxsize=256)
def _backward_plan(shape: _Shape) -> _Graph:
    graph = _Graph(shape)
    q_stride, k_stride, v_stride = shape.strides
    full = shape.num_heads * shape.head_size
    q = graph.row("q", shape.num_heads, q_stride)
    k = graph.row("k", shape.num_kv_heads, k_stride)
    v = graph.row("v", shape.num_kv_heads, v_stride)
    out, grad = graph.row("out", shape.num_heads, full), graph.row("grad", shape.num_heads, full)
    dq, dk, dv = graph.sdpa_backward(q, k, v, out, grad, graph.lse())
    graph.output("dq", dq, shape.num_heads)
    graph.output("dk", dk, shape.num_kv_heads)
    graph.output("dv", dv, shape.num_kv_heads)
    return graph.build()
