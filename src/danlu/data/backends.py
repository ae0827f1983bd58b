"""The two readers of vocabularies behind `Tokenizer`: `tokenizer.json` and SentencePiece `.model`.

Both read a list of parts, texts and control ids, as ONE text, so that merges, space prefixes and the stripping of
spaces around tokens fall exactly as in other libraries; yet no text part can ever become a control token.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from tokenizers import Tokenizer as Rust

from danlu.core.errors import DataError
from danlu.data.marks import BORDER, END, NAME

_BRACKETED = re.compile(r"[<\[].*[>\]]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that stands outside the model's merges. `special`: never part of an answer's text."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False


class Backend(Protocol):
    """What reads a vocabulary. `parts` are texts and control ids; of each id it says which part it came from."""

    vocab_size: int
    added: dict[str, AddedToken]
    """Control tokens and other bracketed added tokens, by content; only these are ever written as `int` parts."""

    def encode_parts(
        self, parts: Sequence[str | int], *, borders: Iterable[int] = ()
    ) -> tuple[list[int], list[int]]: ...

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int], skip_control: bool) -> str: ...

    def piece(self, token_id: int) -> str: ...

    def adds_bos(self, bos_id: int | None) -> bool: ...


def is_bracketed(content: str) -> bool:
    """Whether an added token reads as a mark (`<think>`, `[INST]`) rather than as text such as a run of spaces."""
    return bool(_BRACKETED.fullmatch(content))


class Fast:
    """`tokenizer.json`, twice: as it is, for decoding, and with its control tokens under private names, for encoding.

    Under private names a literal `<|im_end|>` in a person's text is just text, while the real one, written by its
    private name, keeps its flags (lstrip, rstrip) and its effect on neighbours.
    """

    def __init__(self, path: Path, added: dict[str, AddedToken], config: dict[str, Any]) -> None:
        content = orjson.loads(path.read_bytes())
        content["post_processor"] = None  # BOS and EOS are ours to write; ByteLevel's would also shift offsets
        content["truncation"] = content["padding"] = None
        rows = [_row(token, token.content) for token in sorted(added.values(), key=_by_id) if token.id >= 0]
        content["added_tokens"] = rows
        self._plain = _rust(content, path)
        self.added = {}
        for token in added.values():
            number = self._plain.token_to_id(token.content)
            if number is not None and (token.special or is_bracketed(token.content)):
                self.added[token.content] = AddedToken(number, token.content, token.special)
        self._names = {token.id: f"{NAME}{token.id}{END}" for token in self.added.values()}
        named = [
            replace(token, id=self.added[token.content].id, normalized=False)
            for token in added.values()
            if token.content in self.added
        ]
        content["added_tokens"] = [
            *(row for row in rows if row["content"] not in self.added),
            *(_row(token, self._names[token.id]) for token in sorted(named, key=_by_id)),
            _row(AddedToken(0, BORDER, True), BORDER),
        ]
        self._private = _rust(content, path)
        self._private.encode_special_tokens = False
        self._true_ids = {self._private.token_to_id(name): number for number, name in self._names.items()}
        for row in rows:
            if row["content"] not in self.added:
                self._true_ids[self._private.token_to_id(row["content"])] = self._plain.token_to_id(row["content"])
        self._border_id: int = self._private.token_to_id(BORDER)
        self.vocab_size = max(self._plain.get_vocab(with_added_tokens=True).values()) + 1
        self._original, self._config = path, config
        # Old Llama files put a space before the text after ANY added token, so a border would change the text.
        self._has_borders = not self._private.encode(f"0{BORDER}a", add_special_tokens=False).tokens[-1].startswith("▁")

    def adds_bos(self, bos_id: int | None) -> bool:
        if bos_id is None:
            return False
        if isinstance(wanted := self._config.get("add_bos_token"), bool):
            return wanted
        return bos_id in Rust.from_file(str(self._original)).encode("a", add_special_tokens=True).ids[:1]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._private.encode_batch_fast(list(texts), add_special_tokens=False)
        known = self._true_ids
        if not known:
            return [encoding.ids for encoding in encodings]
        return [[known.get(number, number) for number in encoding.ids] for encoding in encodings]

    def encode_parts(self, parts: Sequence[str | int], *, borders: Iterable[int] = ()) -> tuple[list[int], list[int]]:
        marked = set(borders) if self._has_borders else set()
        written: list[str] = []
        starts: list[int] = []
        length = 0
        for index, part in enumerate(parts):
            text = self._names[part] if isinstance(part, int) else part
            if index in marked:
                text = BORDER + text
            written.append(text)
            starts.append(length)
            length += len(text)
        encoding = self._private.encode("".join(written), add_special_tokens=False)
        known, border = self._true_ids, self._border_id
        found, offsets = encoding.ids, encoding.offsets
        owners = np.searchsorted(starts, [start for start, _ in offsets], side="right") - 1
        if marked:
            kept = [at for at, number in enumerate(found) if number != border]
            found, owners = [found[at] for at in kept], owners[kept]
        return [known.get(number, number) for number in found], owners.tolist()

    def decode(self, ids: Sequence[int], skip_control: bool) -> str:
        text: str = self._plain.decode(list(ids), skip_special_tokens=skip_control)
        return text

    def piece(self, token_id: int) -> str:
        text: str = self._plain.decode([token_id], skip_special_tokens=False)
        return text


def _by_id(token: AddedToken) -> int:
    return token.id


def _row(token: AddedToken, content: str) -> dict[str, Any]:
    """An entry of tokenizer.json's `added_tokens`."""
    return asdict(token) | {"content": content}


def _rust(content: dict[str, Any], path: Path) -> Any:
    try:
        return Rust.from_str(orjson.dumps(content).decode())
    except Exception as error:  # tokenizers raises bare Exception for every defect of the file
        raise DataError("encode.bad_tokenizer_file", where=str(path), problem=str(error)) from error


# normalizer_spec (field 3) {add_dummy_prefix (field 3): false}; protobuf merges a message appended to another.
_NO_PREFIX = b"\x1a\x02\x18\x00"


class Pieces:
    """A SentencePiece model. `legacy` (Llama's default) puts a space before the text after each control token."""

    def __init__(self, path: Path, added: dict[str, AddedToken], config: dict[str, Any]) -> None:
        try:
            import sentencepiece  # optional: only checkpoints without tokenizer.json need it
        except ImportError as error:
            raise DataError("encode.needs_sentencepiece", where=str(path)) from error
        content = path.read_bytes()
        try:
            self._first = sentencepiece.SentencePieceProcessor(model_proto=content)
            self._later = sentencepiece.SentencePieceProcessor(model_proto=content + _NO_PREFIX)
        except RuntimeError as error:
            raise DataError("encode.bad_tokenizer_file", where=str(path), problem=str(error)) from error
        self._legacy, self._config = bool(config.get("legacy", True)), config
        num_pieces: int = self._first.vocab_size()
        self.added = {
            self._first.id_to_piece(number): AddedToken(number, self._first.id_to_piece(number), True)
            for number in range(num_pieces)
            if self._first.is_control(number)
        }
        for token in added.values():
            number = token.id if token.id >= 0 else self._first.piece_to_id(token.content)
            if token.special or is_bracketed(token.content):
                self.added[token.content] = AddedToken(number, token.content, token.special)
        self._contents = {token.id: token.content for token in self.added.values()}
        self._special = {token.id for token in self.added.values() if token.special}
        self.vocab_size = max([num_pieces - 1, *self._contents]) + 1
        # User-defined pieces match inside text; a control one (Gemma's <start_of_turn>) is kept apart by halving it.
        self._matching = [
            content
            for content, token in self.added.items()
            if not self._first.is_control(min(token.id, num_pieces - 1)) and token.id in self._first.encode(content)
        ]

    def adds_bos(self, bos_id: int | None) -> bool:
        return bos_id is not None and bool(self._config.get("add_bos_token", True))

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode_parts([text])[0] for text in texts]

    def encode_parts(self, parts: Sequence[str | int], *, borders: Iterable[int] = ()) -> tuple[list[int], list[int]]:
        marked = set(borders)
        ids: list[int] = []
        owners: list[int] = []
        after_control, is_first = True, True
        run: list[tuple[int, str]] = []

        def flush() -> None:
            nonlocal after_control, is_first
            if any(text for _, text in run):
                prefixed = is_first or (after_control and self._legacy)
                for number, owner in self._encode_run(run, prefixed):
                    ids.append(number)
                    owners.append(owner)
                after_control = is_first = False
            run.clear()

        for index, part in enumerate(parts):
            if isinstance(part, int):
                flush()
                ids.append(part)
                owners.append(index)
                after_control, is_first = True, False
            else:
                if index in marked:
                    flush()
                run.append((index, part))
        flush()
        return ids, owners

    def _encode_run(self, run: list[tuple[int, str]], prefixed: bool) -> Iterable[tuple[int, int]]:
        """ids of adjoining texts read as one, each with the number of its part."""
        text = "".join(part for _, part in run)
        starts = list(itertools.accumulate((len(part) for _, part in run), initial=0))[:-1]
        offset = 0
        for half in self._halved(text):
            reader = self._first if prefixed and offset == 0 else self._later
            found = reader.encode(half, out_type="offset_mapping")
            for number, (start, _end) in zip(found["ids"], found["offsets"], strict=True):
                yield number, run[bisect.bisect_right(starts, offset + start) - 1][0]
            offset += len(half)

    def _halved(self, text: str) -> list[str]:
        """The text cut inside each user-defined control literal, so that it cannot match."""
        cuts = sorted({at + 1 for content in self._matching for at in _places(text, content)})
        return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]

    def decode(self, ids: Sequence[int], skip_control: bool) -> str:
        text = ""
        for is_control, group in itertools.groupby(ids, key=lambda number: number in self._contents):
            if is_control:
                text += "".join(
                    self._contents[number] for number in group if not (skip_control and number in self._special)
                )
            else:
                text += self._first.decode([number for number in group if number < self._first.vocab_size()])
        return text

    def piece(self, token_id: int) -> str:
        if token_id in self._contents:
            return self._contents[token_id]
        text: str = self._first.id_to_piece(token_id)
        return text.replace("▁", " ")


def _places(text: str, literal: str) -> Iterable[int]:
    at = text.find(literal)
    while at >= 0:
        yield at
        at = text.find(literal, at + 1)
