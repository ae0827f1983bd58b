"""Grammars: an answer held, token by token, to JSON or to JSON of a schema. Which tokens may come next is llguidance's
to say (an Earley parser over a lexer of derivatives, walked along a trie of the vocabulary); here are one vocabulary's
grammars, what a client's schema may cost, and where an answer may end. Torch-free.

A schema comes from a client. What cannot be kept (`oneOf` of shapes that overlap, `not`, `uniqueItems`, look-around) is
refused, never loosened. Its size, its depth, the parser's steps and states are bounded, so that compiling and every
token are; `multipleOf`, whose automaton grows with the number, is bounded here. Nothing is fetched for a `$ref`.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from danlu.core.errors import EngineError
from danlu.data.tokenizer import Tokenizer

MOST_BYTES = 64 * 2**10
"""Of a schema."""
MOST_DEPTH = 32
MOST_MULTIPLE = 10_000
"""Of `multipleOf`, without its decimal point: remainders that the automaton counts."""
MOST_KEPT = 32
"""Compiled grammars that wait for their next question."""
STEP_FUEL, STEP_ITEMS, MOST_STATES, MOST_SYMBOLS = 200_000, 50_000, 20_000, 100_000
"""A step ends after some 15 ms, a row's automaton at some 40 MB. Errors do not repeat the parser's state."""
SPACE = r"[ \t\r\n]{1,24}"
"""Between two marks: room for indentation, none to write nothing forever."""
ESCAPES = 'bfnrt\\"'
"""A character has one way to be written, so that a property's name cannot come back in disguise with another value."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}
_UNWRITTEN = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that JSON writes by their number alone, which no name or value may hold here (see ESCAPES), and one that
llguidance leaves out."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BIAS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0.0, -np.inf)
_BIAS_OF_BYTE = _BIAS.astype(np.float32)
"""bias_X8 of each byte of a mask."""


class Hold:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: Any, grammar: Grammar) -> None:
        self._matcher, self._grammar = matcher, grammar

    def bias(self, vocab_size: int) -> npt.NDArray[np.float32]:
        """bias_V: 0 for a token that may come next, else -inf. EngineError where none may, or it costs too much."""
        matcher, grammar = self._matcher, self._grammar
        is_whole = matcher.is_accepting()
        bits = matcher.compute_bitmask()
        if matcher.is_error():
            raise EngineError("grammar.broke", said=_words(matcher.get_error()))
        bias_V = np.full(vocab_size, -np.inf, np.float32)
        num = min(vocab_size, grammar.vocab_size)
        bias_V[:num] = _BIAS_OF_BYTE[np.frombuffer(bits, np.uint8)].reshape(-1)[:num]
        bias_V[grammar.control[grammar.control < vocab_size]] = -np.inf  # no part of anyone's words
        if is_whole:
            bias_V[grammar.stop_ids[grammar.stop_ids < vocab_size]] = 0.0
        if not np.isfinite(bias_V).any():
            raise EngineError("grammar.no_way_on")
        return bias_V

    def take(self, token: int) -> None:
        """EngineError where it costs too much, which may show only here."""
        if not self._matcher.consume_token(token):
            raise EngineError("grammar.broke", said=_words(self._matcher.get_error()))

    @property
    def is_over(self) -> bool:
        """Whole, and nothing can follow."""
        return bool(self._matcher.is_stopped() and self._matcher.is_accepting() and not self._matcher.is_error())


class Grammar:
    """One compiled grammar over one vocabulary; any number of answers begin from it."""

    def __init__(
        self, matcher: Any, vocab_size: int, stop_ids: npt.NDArray[np.int64], control: npt.NDArray[np.int64]
    ) -> None:
        self._matcher, self.vocab_size, self.stop_ids, self.control = matcher, vocab_size, stop_ids, control

    def begin(self) -> Hold:
        return Hold(self._matcher.deep_copy(), self)


class Grammars:
    """Of one vocabulary, which is read when the first is asked for. Any thread may ask; one compiles at a time."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Iterable[int]) -> None:
        self._tokenizer, stops = tokenizer, sorted(stop_ids)
        self._stop_ids = np.array(stops, np.int64)
        self._control = np.array(sorted({*tokenizer.control_tokens.values(), *stops}), np.int64)
        self._vocabulary: Any = None
        self._kept: OrderedDict[bytes, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, schema: dict[str, Any]) -> Grammar:
        """Compiles, in milliseconds mostly, at worst in a second: not for a loop's thread. EngineError where the schema
        cannot be kept."""
        text = checked(schema)
        with self._lock:
            if (found := self._kept.get(text)) is None:
                found = self._kept[text] = self._compiled(text)
                if len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(text)
            return found

    def _compiled(self, text: bytes) -> Grammar:
        try:
            import llguidance  # the extra `serve`: only held answers need it
        except ImportError as fault:
            raise EngineError("grammar.needs_llguidance") from fault
        if self._vocabulary is None:
            self._vocabulary = _vocabulary(self._tokenizer, self._stop_ids.tolist(), self._control.tolist())
        try:
            said = llguidance.LLMatcher.grammar_from_json_schema(
                text.decode(),
                overrides={
                    "whitespace_pattern": SPACE, "json_allowed_escapes": ESCAPES, "lenient": False,
                    "coerce_one_of": False,
                },
            )  # fmt: skip
        except ValueError as fault:
            raise EngineError("grammar.bad_schema", said=_words(str(fault))) from fault
        limits = llguidance.LLParserLimits(
            step_lexer_fuel=STEP_FUEL, step_max_items=STEP_ITEMS, max_lexer_states=MOST_STATES,
            max_grammar_size=MOST_SYMBOLS, verbose_errors=False,
        )  # fmt: skip
        matcher = llguidance.LLMatcher(self._vocabulary, said, log_level=0, limits=limits)
        matcher.compute_bitmask()  # each answer begins here: paid for once
        if matcher.is_error():
            raise EngineError("grammar.bad_schema", said=_words(matcher.get_error()))
        return Grammar(matcher, self._tokenizer.vocab_size, self._stop_ids, self._control)


def checked(schema: dict[str, Any]) -> bytes:
    """The schema's text. EngineError where it is too large, too deep, or would steer more than the answer."""
    left: list[tuple[Any, int]] = [(schema, 1)]
    while left:
        value, depth = left.pop()
        if depth > MOST_DEPTH:
            raise EngineError("grammar.too_deep", most=MOST_DEPTH)
        if isinstance(value, dict):
            if "x-guidance" in value:  # llguidance's own switches, among them the one that ignores what it cannot keep
                raise EngineError("grammar.bad_schema", said="x-guidance")
            multiple = value.get("multipleOf")
            if isinstance(multiple, int | float) and not _is_small(multiple):
                raise EngineError("grammar.bad_schema", said=f"multipleOf: {multiple}")
            least, required = value.get("minProperties"), value.get("required")
            if isinstance(least, int) and least > max(1, len(required) if isinstance(required, list) else 0):
                raise EngineError("grammar.bad_schema", said="minProperties")  # the same name twice would count twice
            left += [(one, depth + 1) for one in (*value, *value.values())]
        elif isinstance(value, str) and (unwritten := _UNWRITTEN.search(value)):
            raise EngineError("grammar.bad_schema", said=f"U+{ord(unwritten[0]):04X}")
        elif isinstance(value, list):
            left += [(one, depth + 1) for one in value]
    text = orjson.dumps(schema)
    if len(text) > MOST_BYTES:
        raise EngineError("grammar.too_large", most=MOST_BYTES)
    return text


def _is_small(multiple: float) -> bool:
    digits = np.format_float_positional(float(multiple), trim="-").replace(".", "").lstrip("-0")
    return 0 < len(digits) < 18 and int(digits) <= MOST_MULTIPLE


def _vocabulary(tokenizer: Tokenizer, stop_ids: list[int], control: list[int]) -> Any:
    """The bytes of each token. `tokenizer.json` is llguidance's to read; a SentencePiece `.model` is read here."""
    import llguidance  # the extra `serve`, as above

    path = tokenizer.folder / "tokenizer.json"
    given: Any = str(path) if path.is_file() else llguidance.TokenizerWrapper(_Pieces(tokenizer, stop_ids[0], control))
    try:
        return llguidance.LLTokenizer(given, n_vocab=tokenizer.vocab_size, eos_token=stop_ids)
    except (ValueError, RuntimeError) as fault:
        raise EngineError("grammar.bad_vocabulary", where=str(tokenizer.folder), said=_words(str(fault))) from fault


class _Pieces:
    """A SentencePiece vocabulary in the shape that llguidance reads."""

    def __init__(self, tokenizer: Tokenizer, stop_id: int, control: list[int]) -> None:
        self.eos_token_id, self.bos_token_id = stop_id, tokenizer.bos_id
        self.special_token_ids = control
        self.tokens = [_bytes_of(tokenizer.piece(token)) for token in range(tokenizer.vocab_size)]
        self._ids: dict[bytes, int] = {}
        unspoken = set(control)
        for token, written in enumerate(self.tokens):
            if token not in unspoken:
                self._ids.setdefault(written, token)
        self._longest = max(map(len, self.tokens))

    def __call__(self, text: str | bytes) -> list[int]:
        """Longest pieces first: no space before the text, as within an answer there is none."""
        left = text.encode() if isinstance(text, str) else text
        ids = []
        while left:
            size = next(n for n in range(min(self._longest, len(left)), 0, -1) if left[:n] in self._ids)
            ids.append(self._ids[left[:size]])
            left = left[size:]
        return ids


def _bytes_of(piece: str) -> bytes:
    found = _BYTE.fullmatch(piece)
    return bytes([int(found[1], 16)]) if found else piece.encode()


def _words(said: str) -> str:
    """One line of what the library says."""
    return " ".join(said.split())[:300]
