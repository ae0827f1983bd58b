"""The list of what has to be forgotten, as HMACs: rows that hold one of these values are dropped.

Numbers and addresses are matched where a detector finds them. A name is also looked for where no detector sees one:
every run of letters that could be that name is put to the test, so the list itself need not hold it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DataError
from danlu.core.files import write_json
from danlu.data.privacy.finding import Family
from danlu.data.privacy.keys import Keyring

FORMAT = 1
_WORDS_EN = re.compile("[A-Za-zÀ-ÿ][A-Za-zÀ-ÿ'’-]*")
_RUN_ZH = re.compile("[\u4e00-\u9fff·]+")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """`macs` under the epoch key `key`; `names` are (mac, script, size): Chinese letters or English words counted."""

    key: str
    macs: frozenset[str]
    names: tuple[tuple[str, str, int], ...]

    @classmethod
    def read(cls, path: Path) -> Forgotten:
        try:
            tree = orjson.loads(path.read_bytes())
            names = tuple((name["mac"], name["script"], int(name["size"])) for name in tree["names"])
            return cls(tree["key"], frozenset(tree["macs"]), names)
        except FileNotFoundError as error:
            raise DataError("privacy.no_forget_list", where=str(path)) from error
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError("privacy.bad_forget_list", where=str(path)) from error

    def write(self, path: Path) -> None:
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        names = [{"mac": mac, "script": script, "size": size} for mac, script, size in self.names]
        return {"format": FORMAT, "key": self.key, "macs": sorted(self.macs), "names": names}

    def with_all(self, other: Forgotten) -> Forgotten:
        assert self.key == other.key, "lists under different keys are brought to one key first"
        return Forgotten(self.key, self.macs | other.macs, tuple(dict.fromkeys(self.names + other.names)))

    def under_current(self, keyring: Keyring) -> Forgotten:
        """The same list under the keyring's current key."""
        if self.key == keyring.current:
            return self
        names = tuple((keyring.resealed(mac, self.key), script, size) for mac, script, size in self.names)
        return Forgotten(keyring.current, frozenset(keyring.resealed(mac, self.key) for mac in self.macs), names)

    def is_named_in(self, text: str, keyring: Keyring) -> bool:
        """Whether one of the names stands anywhere in a text; asks the keyring for every candidate."""
        wanted = {mac for mac, _, _ in self.names}
        sizes = {(script, size) for _, script, size in self.names}
        return any(keyring.mac("name", piece) in wanted for piece in _pieces(text, sizes))


def name_form(value: str) -> tuple[str, int]:
    """How a name is looked for: ("zh", letters) or ("en", words)."""
    runs = _RUN_ZH.findall(value)
    return ("zh", len("".join(runs))) if runs else ("en", len(_WORDS_EN.findall(value)))


def _pieces(text: str, sizes: set[tuple[str, int]]) -> Iterator[str]:
    for script, size in sizes:
        if script == "zh":
            for run in _RUN_ZH.findall(text):
                yield from (run[at : at + size] for at in range(len(run) - size + 1))
        else:
            words = _WORDS_EN.findall(text)
            yield from (" ".join(words[at : at + size]) for at in range(len(words) - size + 1))


FAMILIES: tuple[Family, ...] = ("number", "email", "name", "words", "secret")


def macs_of(value: str, keyring: Keyring, key: str | None = None) -> frozenset[str]:
    """Every mac a value can have, for who looks it up does not say which kind it is."""
    return frozenset(keyring.mac(family, value, key) for family in FAMILIES)
