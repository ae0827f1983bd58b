"""A checkpoint's tokenizer as llama.cpp reads one: tokens, types, and merges or scores.

Byte-level BPE (`gpt2` there) cuts texts by rules that have names; SentencePiece BPE (`llama`) joins neighbours by
score, which a tokenizer.json states as the order of its merges. Other kinds are refused, and so is a normaliser that
llama.cpp does not have and that changes ordinary text.

Not reproduced there, whatever a file says: Unicode NFC (text that is not in it gets other ids), and that a control
token's literal in a person's words is text.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import ExportError
from danlu.data.tokenizer import Tokenizer
from danlu.exports.gguf import sentencepiece_file
from danlu.exports.gguf.pretokenizers import NAMES, WITHOUT_MERGES, steps_of


class Kind(IntEnum):
    """Token types of the GGUF specification."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(slots=True)
class Vocabulary:
    """`model` and `pre` are llama.cpp's names; `scores` belong to SentencePiece, `merges` to byte-level BPE.
    `prefixes_space`: a space is put before a text, and before each one that follows a control token."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[Kind]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    prefixes_space: bool | None = None
    strips_after_control: bool = False
    """Spaces after a control token vanish (Phi-3)."""


def read_vocabulary(folder: Path, num_rows: int, *, first_ids: frozenset[int]) -> Vocabulary:
    """The tokenizer of a checkpoint folder with a token for each of the embedding's `num_rows` rows. `first_ids`:
    what prompts begin with. ExportError when llama.cpp would read texts otherwise."""
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > num_rows:
        raise ExportError("gguf.more_tokens", where=str(folder), given=tokenizer.vocab_size, expected=num_rows)
    path = folder / "tokenizer.json"
    control = tokenizer.control_tokens
    added = dict(tokenizer.marks)
    begins_with_control = first_ids <= set(control.values())
    if path.is_file():
        content = orjson.loads(path.read_bytes())
        rows = content.get("added_tokens") or []
        added |= {row["content"]: row["id"] for row in rows}
        vocabulary = _from_json(content, path, begins_with_control)
        vocabulary.strips_after_control = _strips(rows, set(control), path)
    else:
        vocabulary = _from_pieces(folder, begins_with_control)
    _add_marks(vocabulary, added, set(control), num_rows)
    return vocabulary


def _from_json(content: dict[str, Any], path: Path, begins_with_control: bool) -> Vocabulary:
    model = content["model"]
    if model["type"] != "BPE":
        raise ExportError("gguf.tokenizer_kind", where=str(path), given=model["type"])
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ExportError("gguf.tokenizer_kind", where=str(path), given="BPE + subword prefix")
    ranked = sorted(model["vocab"].items(), key=lambda pair: pair[1])
    tokens = [""] * (ranked[-1][1] + 1)
    for token, number in ranked:
        tokens[number] = token
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    steps = steps_of(content.get("pre_tokenizer"))
    if any(step[0] == "ByteLevel" for step in steps):
        return _byte_level(model, tokens, pairs, steps, content, path)
    if model.get("byte_fallback"):
        return _joined_by_score(tokens, pairs, steps, content, path, begins_with_control)
    raise ExportError("gguf.tokenizer_kind", where=str(path), given="BPE")


def _byte_level(
    model: dict[str, Any], tokens: list[str], pairs: list[tuple[str, ...]], steps: tuple[Any, ...],
    content: dict[str, Any], path: Path,
) -> Vocabulary:  # fmt: skip
    foreign = {step["type"] for step in _normalizers(content)} - {"NFC"}
    if foreign:
        raise ExportError("gguf.normalizer", where=str(path), given=", ".join(sorted(foreign)))
    if steps not in NAMES:
        raise ExportError("gguf.unknown_rules", where=str(path), given=repr(steps)[:300])
    pre = NAMES[steps]
    if not model.get("ignore_merges"):
        pre = WITHOUT_MERGES.get(pre, pre)
    kinds = [Kind.NORMAL if token else Kind.UNUSED for token in tokens]
    return Vocabulary("gpt2", pre, tokens, kinds, merges=[" ".join(pair) for pair in pairs])


def _joined_by_score(
    tokens: list[str], pairs: list[tuple[str, ...]], steps: tuple[Any, ...], content: dict[str, Any], path: Path,
    begins_with_control: bool,
) -> Vocabulary:  # fmt: skip
    """SentencePiece BPE from its merges: what is joined first scores highest."""
    known = {("Prepend", "▁"), ("Replace", " ", "▁")}
    foreign = [step for step in map(_normalizer, _normalizers(content)) if step not in known]
    if foreign:
        raise ExportError("gguf.normalizer", where=str(path), given=repr(foreign)[:300])
    rank: dict[str, int] = {}
    for place, pair in enumerate(pairs):
        rank.setdefault("".join(pair), place)
    scores = [-float(rank.get(token, len(pairs) + number)) for number, token in enumerate(tokens)]
    kinds = [_kind_of_piece(token) for token in tokens]
    if unk := content["model"].get("unk_token"):
        kinds[tokens.index(unk)] = Kind.UNKNOWN
    prefixes = _prefixes_space(content, begins_with_control)
    return Vocabulary("llama", "default", tokens, kinds, scores=scores, prefixes_space=prefixes)


def _prefixes_space(content: dict[str, Any], begins_with_control: bool) -> bool:
    """Newer files put a space before the very first text only: with prompts that begin with a control token, never."""
    if any(step["type"] == "Prepend" for step in _normalizers(content)):
        return True
    schemes = {step.get("prepend_scheme") for step in _flat(content.get("pre_tokenizer"), "pretokenizers")}
    return "always" in schemes or ("first" in schemes and not begins_with_control)


def _from_pieces(folder: Path, begins_with_control: bool) -> Vocabulary:
    path = next(iter([*sorted(folder.glob("tokenizer.model*")), *sorted(folder.glob("*.model"))]))
    model = sentencepiece_file.read(path)
    if not model.is_bpe:
        raise ExportError("gguf.tokenizer_kind", where=str(path), given="SentencePiece unigram")
    if model.has_charsmap or model.removes_spaces:
        raise ExportError("gguf.normalizer", where=str(path), given="SentencePiece")
    kinds = [Kind(piece.kind) for piece in model.pieces]
    settings = folder / "tokenizer_config.json"
    is_legacy = not settings.is_file() or bool(orjson.loads(settings.read_bytes()).get("legacy", True))
    return Vocabulary(
        "llama", "default", [piece.text for piece in model.pieces], kinds,
        scores=[piece.score for piece in model.pieces],
        prefixes_space=model.adds_prefix and (is_legacy or not begins_with_control),
    )  # fmt: skip


def _add_marks(vocabulary: Vocabulary, added: dict[str, int], control: set[str], num_rows: int) -> None:
    """Added tokens in their places, and rows of the embedding that no token has."""
    missing = num_rows - len(vocabulary.tokens)
    vocabulary.tokens += [""] * missing
    vocabulary.kinds += [Kind.UNUSED] * missing
    if vocabulary.scores:
        vocabulary.scores += [-1e6] * missing
    for token, number in added.items():
        if vocabulary.kinds[number] != Kind.UNKNOWN:
            vocabulary.tokens[number] = token
            vocabulary.kinds[number] = Kind.CONTROL if token in control else Kind.USER_DEFINED
    taken = set(vocabulary.tokens)
    names = (name for name in (f"[PAD{number}]" for number in itertools.count()) if name not in taken)
    for number, token in enumerate(vocabulary.tokens):
        if not token:
            vocabulary.tokens[number] = next(names)


def _strips(rows: list[dict[str, Any]], control: set[str], path: Path) -> bool:
    """Whether control tokens eat the spaces after them; llama.cpp knows only all of Phi-3's or none."""
    strip = {row["content"] for row in rows if row["content"] in control and row.get("rstrip")} - {"</s>"}
    if not strip:
        return False
    if others := control - strip - {"<unk>", "<s>", "</s>", "<|endoftext|>"}:
        raise ExportError("gguf.stripping", where=str(path), given=", ".join(sorted(others)[:5]))
    return True


def _kind_of_piece(token: str) -> Kind:
    if not token:
        return Kind.UNUSED
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return Kind.BYTE if is_byte else Kind.NORMAL


def _normalizers(content: dict[str, Any]) -> list[dict[str, Any]]:
    return _flat(content.get("normalizer"), "normalizers")


def _normalizer(step: dict[str, Any]) -> tuple[Any, ...]:
    if step["type"] == "Replace":
        return "Replace", step["pattern"].get("String"), step["content"]
    return step["type"], step.get("prepend")


def _flat(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [step for each in part[key] for step in _flat(each, key)] if part["type"] == "Sequence" else [part]
