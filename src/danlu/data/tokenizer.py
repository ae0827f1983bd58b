"""Text to ids and back, without torch and without transformers. Control tokens in text are text.

`tokenizer.json` is read through `tokenizers`, a SentencePiece `.model` through `sentencepiece` (`backends.py`); which
tokens are control, which begin, end or pad a text, stands in tokenizer_config.json, special_tokens_map.json,
added_tokens.json, generation_config.json and config.json. Not here: chat templates (`template.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DataError
from danlu.core.files import sha256_file, sha256_json
from danlu.data.backends import AddedToken, Backend, Fast, Pieces
from danlu.data.marks import without_noncharacters
from danlu.data.token_bound import TokenBound

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """One vocabulary with its control tokens. Equal files give equal `digest`."""

    def __init__(self, folder: Path, backend: Backend, special: dict[str, Any], eos_ids: Iterable[int]) -> None:
        self.folder, self._backend = folder, backend
        self.special_tokens: dict[str, Any] = special
        """`bos_token`, `eos_token`, ... as a chat template sees them."""
        self.vocab_size = backend.vocab_size
        self.bos_id = self._role("bos_token")
        self.eos_id = self._role("eos_token")
        listed = {token for token in eos_ids if 0 <= token < self.vocab_size}
        self.eos_ids: frozenset[int] = frozenset(listed | ({self.eos_id} if self.eos_id is not None else set()))
        if self.eos_id is None and listed:
            self.eos_id = min(listed)
        pad = self._role("pad_token")
        self.pad_id: int = pad if pad is not None else (self.eos_id or 0)
        self.adds_bos = backend.adds_bos(self.bos_id)
        """Whether plain text begins with BOS; chat templates write theirs themselves."""
        self.digest = sha256_json({path.name: sha256_file(path) for path in _vocabulary_files(folder)})

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """From a checkpoint's folder. DataError when it holds no tokenizer that danlu reads."""
        folder = Path(folder)
        config = _read(folder / "tokenizer_config.json")
        special = _special_tokens(folder, config)
        added = _added_tokens(folder, config, special)
        if (path := folder / "tokenizer.json").is_file():
            backend: Backend = Fast(path, added, config)
        elif models := sorted(folder.glob("tokenizer.model*")) + sorted(folder.glob("*.model")):
            backend = Pieces(models[0], added, config)
        else:
            key = "only_vocabulary" if (folder / "vocab.txt").is_file() else "no_tokenizer"
            raise DataError(f"encode.{key}", where=str(folder))
        return cls(folder, backend, special, _eos_ids(folder))

    @property
    def control_tokens(self) -> dict[str, int]:
        """Special tokens by content: never part of anyone's words."""
        return {content: token.id for content, token in self._backend.added.items() if token.special}

    @property
    def marks(self) -> dict[str, int]:
        """Control tokens and bracketed added ones (`<think>`, `<tool_call>`) by content."""
        return {content: token.id for content, token in self._backend.added.items()}

    def control_id(self, token: str) -> int:
        """The id of a control token's literal; KeyError when there is none."""
        return self._backend.added[token].id

    def encode_text(self, text: str) -> list[int]:
        """ids of plain text: no BOS, no EOS, control tokens' literals as the text that they are here."""
        return self._backend.encode_texts([without_noncharacters(text)])[0]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_text` of many at once, several times faster."""
        return self._backend.encode_texts([without_noncharacters(text) for text in texts])

    def least_tokens(self, text: str) -> int:
        """So many at least, without reading it: no token holds more than the longest. 0 where nothing is sure."""
        return self._bound.least(without_noncharacters(text)) if self._bound is not None else 0

    @functools.cached_property
    def _bound(self) -> TokenBound | None:
        """Costs a fraction of a second, once."""
        content = _read(self.folder / "tokenizer.json")
        added = _added_tokens(self.folder, _read(self.folder / "tokenizer_config.json"), self.special_tokens)
        return TokenBound.of(content, added) if content else None

    def encode_parts(self, parts: Sequence[str | int], *, borders: Iterable[int] = ()) -> tuple[list[int], list[int]]:
        """ids of texts and control ids read as one text, and of each id the number of the part that it begins in.

        No token spans the beginning of a part named in `borders`.
        """
        return self._backend.encode_parts(parts, borders=borders)

    def decode(self, ids: Iterable[int], skip_control: bool = True) -> str:
        return self._backend.decode(list(ids), skip_control)

    def piece(self, token_id: int) -> str:
        """One token as readable text, for displays and for finding sentence ends."""
        return self._backend.piece(token_id)

    def _role(self, role: str) -> int | None:
        content = self.special_tokens.get(role)
        return self._backend.added[content].id if content in self._backend.added else None


def _vocabulary_files(folder: Path) -> list[Path]:
    models = [] if (folder / "tokenizer.json").is_file() else sorted(folder.glob("*.model*"))
    return models + [folder / name for name in _FILES if (folder / name).is_file()]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError("encode.bad_tokenizer_file", where=str(path), problem=str(error)) from error
    if not isinstance(value, dict):
        raise DataError("encode.bad_tokenizer_file", where=str(path), problem=type(value).__name__)
    return value


def _content(token: Any) -> str | None:
    """A token's text, whether written as a string or as {"content": ...}."""
    return token.get("content") if isinstance(token, dict) else token


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    mapped = _read(folder / "special_tokens_map.json")
    special: dict[str, Any] = {}
    for role in _ROLES:
        if content := _content(config.get(role, mapped.get(role))):
            special[role] = content
    more = config.get("additional_special_tokens") or mapped.get("additional_special_tokens") or []
    if isinstance(more, list) and more:
        special["additional_special_tokens"] = [content for token in more if (content := _content(token))]
    return special


def _added_tokens(folder: Path, config: dict[str, Any], special: dict[str, Any]) -> dict[str, AddedToken]:
    """Added tokens from tokenizer.json, then tokenizer_config.json, then added_tokens.json; the first word counts."""
    rows: list[dict[str, Any]] = list(_read(folder / "tokenizer.json").get("added_tokens") or [])
    decoder = config.get("added_tokens_decoder") or {}
    rows += [{"id": int(number), **row} for number, row in decoder.items()]
    rows += [{"id": number, "content": content} for content, number in _read(folder / "added_tokens.json").items()]
    declared = {content for content in special.values() if isinstance(content, str)}
    declared |= set(special.get("additional_special_tokens", ()))
    added: dict[str, AddedToken] = {}
    for row in rows:
        content = row["content"]
        added.setdefault(
            content,
            AddedToken(
                id=row["id"],
                content=content,
                special=bool(row.get("special", False)) or content in declared,
                lstrip=bool(row.get("lstrip", False)),
                rstrip=bool(row.get("rstrip", False)),
                normalized=bool(row.get("normalized", False)),
                single_word=bool(row.get("single_word", False)),
            ),
        )
    for content in declared - added.keys():  # named, but its id is only in the vocabulary: the backend looks it up
        added[content] = AddedToken(id=-1, content=content, special=True)
    return added


def _eos_ids(folder: Path) -> list[int]:
    """What generation stops at: generation_config.json's list, else config.json's."""
    for name in ("generation_config.json", "config.json"):
        eos = _read(folder / name).get("eos_token_id")
        if eos is not None:
            return [token for token in (eos if isinstance(eos, list) else [eos]) if isinstance(token, int)]
    return []
