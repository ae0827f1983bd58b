"""The row stage: find, grade, act, and hand out the record. Pure: an alias depends on value and secret alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import danlu.data.privacy.fakes as fakes
from danlu.core.errors import DataError
from danlu.data.identity import sample_id
from danlu.data.privacy.detectors import DETECTORS, Recognizer
from danlu.data.privacy.finding import KINDS, Finding
from danlu.data.privacy.forgotten import Forgotten
from danlu.data.privacy.keys import Keyring
from danlu.data.privacy.known import KnownNames
from danlu.data.privacy.level import Level, grade, level_of
from danlu.data.privacy.mentions import complete
from danlu.data.privacy.policy import Policy
from danlu.data.privacy.records import Record
from danlu.data.privacy.scan import Scanner, settle
from danlu.data.sample import Sample
from danlu.data.stage import Fate, Outcome
from danlu.data.texts import texts_of, with_texts

VERSION = 2

MADE = ("teacher", "augment", "replay")
"""Makers whose rows were made of masked text, here."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of one row, and what the ledger of findings has to say of it."""

    outcome: Outcome
    records: tuple[Record, ...]


class PrivacyStage:
    """See the package's docstring for the contract. `names`: known people; `recognizers`: names of plug-ins."""

    name = "privacy"

    def __init__(
        self,
        policy: Policy,
        keyring: Keyring,
        *,
        names: Sequence[str] = (),
        recognizers: Sequence[str] = (),
        forgotten: Forgotten | None = None,
    ) -> None:
        self.policy, self.keyring = policy, keyring
        self.forgotten = forgotten.under_current(keyring) if forgotten is not None else None
        self._known = KnownNames(names) if names else None
        self._recognizer_names = tuple(recognizers)
        self._recognizers = [open_recognizer(name) for name in recognizers]
        self._versions = {each.name: each.version for each in self._recognizers}
        self._scanner: Scanner | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_scanner": None, "_recognizers": []}  # compiled patterns and models stay here

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._recognizers = [open_recognizer(name) for name in self._recognizer_names]

    @property
    def scanner(self) -> Scanner:
        if self._scanner is None:
            self._scanner = Scanner()
            self._versions |= {rule.name: rule.version for rule in self._scanner.rules}
        return self._scanner

    def key(self) -> dict[str, Any]:
        """Policy, versions and the ids of the secrets. The list to forget and known people go in by their HMAC."""
        return {
            "version": VERSION,
            "policy": self.policy.to_json(),
            "detectors": {rule.name: rule.version for rule in self.scanner.rules},
            "recognizers": {each.name: each.version for each in self._recognizers},
            "keys": [self.keyring.current, self.keyring.alias_id],
            "known": self.keyring.mac("secret", "\n".join(self._known.names)) if self._known else "",
            "forgotten": self.forgotten.to_json() if self.forgotten else None,
        }

    def told(self) -> dict[str, Any]:
        """`key` for a manifest: what rows come to, whichever keys seal the records. Known people and those to forget
        are counted alone: a digest of few names can be guessed."""
        policy = self.policy.to_json()
        del policy["pack"]  # may be a path; its actions are there
        has_aliases = "pseudonym" in self.policy.actions.values()
        return {
            **{name: value for name, value in self.key().items() if name not in ("keys", "known", "forgotten")},
            "policy": policy,
            "aliases": self.keyring.alias_id if has_aliases else None,
            "known": len(self._known.names) if self._known else 0,
            "forgotten": len(self.forgotten.macs) + len(self.forgotten.names) if self.forgotten else 0,
        }

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        return [examined.outcome for examined in self.examine(samples)]

    def examine(self, samples: Sequence[Sample]) -> list[Examined]:
        texts = [texts_of(sample) for sample in samples]
        found = iter(self.find([text for of_sample in texts for text in of_sample]))
        examined = []
        for sample, of_sample in zip(samples, texts, strict=True):
            hits = [next(found) for _ in of_sample]
            examined.append(self._examine(sample, of_sample, hits))
        return examined

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, of all detectors, certain enough for the policy; mentions are not yet completed."""
        found = self.scanner.scan(texts)
        for more in (self._known, *self._recognizers):
            if more is None:
                continue
            for index, hits in enumerate(more.read(texts)):
                if hits:
                    found[index] = settle([*found[index], *hits])
        floor = self.policy.min_score
        return [[hit for hit in hits if hit.score >= floor] if hits else hits for hits in found]

    def _examine(self, sample: Sample, texts: list[str], found: list[list[Finding]]) -> Examined:
        is_made = sample.tags.get("made_by") in MADE
        if any(found):
            found = complete(texts, found)
            if is_made:
                found = [[hit for hit in hits if not self._is_ours(hit)] for hits in found]
        if self._has_to_go(texts, found):
            return self._dropped(sample, found, "privacy_forgotten")
        if not any(found):
            brought = level_of(sample)
            level = self.policy.level if brought is None else grade((brought, self.policy.level))
            return Examined((_tagged(sample, level, level, flags=False), ()), _derived(sample))
        if any(self.policy.actions[hit.kind] == "drop" for hits in found for hit in hits):
            return self._dropped(sample, found, "privacy_dropped")
        return self._masked(sample, texts, found)

    def _is_ours(self, hit: Finding) -> bool:
        """A pseudonym of ours, or a surname alone, in a text that was made of masked text."""
        return fakes.is_own(hit, self.keyring) or (hit.kind == "name" and len(hit.value) == 1)

    def _has_to_go(self, texts: list[str], found: list[list[Finding]]) -> bool:
        if self.forgotten is None:
            return False
        macs = {self._mac(hit) for hits in found for hit in hits}
        return not macs.isdisjoint(self.forgotten.macs) or (
            bool(self.forgotten.names) and any(self.forgotten.is_named_in(text, self.keyring) for text in texts)
        )

    def _masked(self, sample: Sample, texts: list[str], found: list[list[Finding]]) -> Examined:
        fresh = [self._rewritten(text, hits) if hits else text for text, hits in zip(texts, found, strict=True)]
        masked = with_texts(sample, fresh)
        hits = [hit for of_text in found for hit in of_text]
        kept = [hit for hit in hits if self.policy.actions[hit.kind] == "keep"]
        base = grade([level_of(sample) or "public", self.policy.level])
        level = grade([base, *(KINDS[hit.kind].level for hit in kept)])
        before = grade([base, *(KINDS[hit.kind].level for hit in hits)])
        masked = _tagged(masked, level, before, flags=bool(kept))
        acted = [hit for hit in hits if self.policy.actions[hit.kind] != "keep"]
        fates = [Fate("change", "privacy_masked", {"found": counted(acted)})] if acted else []
        fates += [Fate("flag", "privacy_found", {"found": counted(kept)})] if kept else []
        return Examined(
            (masked, tuple(fates)), self._records(masked, sample_id(masked), found, None) + _derived(masked)
        )

    def _dropped(self, sample: Sample, found: list[list[Finding]], reason: str) -> Examined:
        hits = [hit for of_text in found for hit in of_text]
        mark = "x_" + self.keyring.mac("secret", sample_id(sample))
        fate = Fate("drop", reason, {"found": counted(hits)})
        return Examined((None, (fate,)), self._records(sample, mark, found, "drop"))

    def _rewritten(self, text: str, hits: list[Finding]) -> str:
        parts, end = [], len(text)
        for hit in reversed(hits):
            parts += [text[hit.end : end], self._put(hit, text[hit.start : hit.end], text)]
            end = hit.start
        return text[:end] + "".join(reversed(parts))

    def _put(self, hit: Finding, shown: str, text: str) -> str:
        match self.policy.actions[hit.kind]:
            case "mask":
                return fakes.mask(hit, shown)
            case "token":
                return fakes.type_token(hit.kind, text)
            case "pseudonym":
                return fakes.pseudonym(hit, shown, self.keyring)
            case _:
                return shown

    def _mac(self, hit: Finding) -> str:
        return self.keyring.mac(KINDS[hit.kind].family, hit.value)

    def _records(self, sample: Sample, mark: str, found: list[list[Finding]], action: str | None) -> tuple[Record, ...]:
        return tuple(
            {
                "sample": mark,
                "file": sample.origin.file,
                "line": sample.origin.line,
                "text": index,
                "start": hit.start,
                "end": hit.end,
                "type": hit.kind,
                "detector": f"{hit.detector}/{self._versions.get(hit.detector, 1)}",
                "score": round(hit.score, 2),
                "level": KINDS[hit.kind].level,
                "action": action or self.policy.actions[hit.kind],
                "mac": self._mac(hit),
                "key": self.keyring.current,
            }
            for index, hits in enumerate(found)
            for hit in hits
        )


def _derived(sample: Sample) -> tuple[Record, ...]:
    parents = sample.tags.get("parents")
    return ({"sample": sample_id(sample), "type": "derived", "parents": list(parents)},) if parents else ()


def _tagged(sample: Sample, level: Level, before: Level, *, flags: bool) -> Sample:
    tags = sample.tags | {"level": level, "level_found": before}
    if flags and "privacy_found" not in tags.get("flags", ()):
        tags["flags"] = [*tags.get("flags", ()), "privacy_found"]
    return replace(sample, tags=tags)


def counted(hits: Sequence[Finding]) -> str:
    """`mobile 2, name 1`: what a report may say of them."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(hit.kind for hit in hits).items()))


def open_recognizer(name: str) -> Recognizer:
    """A plug-in by name; DataError when it is not one, or speaks of kinds that do not exist."""
    made = DETECTORS.load(name, where="data.privacy.recognizers")()
    if not isinstance(made, Recognizer) or not set(made.kinds) <= set(KINDS):
        raise DataError("privacy.no_recognizer", where="data.privacy.recognizers", given=name)
    return made


def load_names(path: Path) -> list[str]:
    """Known people from a text file: one name a line, blank lines and # comments aside."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("privacy.names_unreadable", where="data.privacy.names", given=str(path)) from error
    named = (line.strip() for line in lines)
    return [line for line in named if line and not line.startswith("#")]
