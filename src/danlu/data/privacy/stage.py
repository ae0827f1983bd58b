"""The row stage: find, grade, act, and hand out the record. Pure: an alias depends on value and secret alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import danlu.data.privacy.fakes as fakes
from danlu.data.identity import sample_id
from danlu.data.joined import Texts
from danlu.data.privacy.finding import KINDS, Finding
from danlu.data.privacy.forgotten import Forgotten, macs_of
from danlu.data.privacy.keys import Keyring
from danlu.data.privacy.known import KnownNames
from danlu.data.privacy.level import Level, grade, level_of
from danlu.data.privacy.mentions import complete
from danlu.data.privacy.policy import Policy
from danlu.data.privacy.records import Record
from danlu.data.privacy.rewriting import Rewriting, Seen
from danlu.data.privacy.scan import Scanner, open_recognizer, settle
from danlu.data.privacy.sight import OURS, Place, cues_of, is_plain, places_of
from danlu.data.sample import Sample
from danlu.data.stage import Fate, Outcome
from danlu.data.texts import texts_of, with_tags

VERSION = 3
_REMEMBERED = 65_536
"""Short strings beside the texts (headers, groups, tools) come again row by row: so many are read once."""
_GROUP = "姓名："
"""A group may be a name that nothing leads to."""

MADE = ("teacher", "augment", "replay")
"""Makers whose rows were made of masked text, here."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of one row, and what the ledger of findings has to say of it."""

    outcome: Outcome
    records: tuple[Record, ...]


class Look(NamedTuple):
    """What privacy says of many rows. Rows that are not in `examined` are clean: neither fates nor records, and `tags`
    beside those that they have."""

    examined: dict[int, Examined]
    tags: dict[str, Any]


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
        self._rewriting = Rewriting(policy, keyring)
        self.forgotten = forgotten.under_current(keyring) if forgotten is not None else None
        self._known = KnownNames(names) if names else None
        self._recognizer_names = tuple(recognizers)
        self._recognizers = [open_recognizer(name) for name in recognizers]
        self._versions = {each.name: each.version for each in self._recognizers}
        self._scanner: Scanner | None = None
        self._read: dict[str, list[Finding]] = {}
        self._clean_tags: set[tuple[str, Any]] = set()
        self._verdicts: dict[tuple[Level | None, tuple[str, ...]], tuple[Level, Level, tuple[Fate, ...]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {
            "_scanner": None,
            "_recognizers": [],
            "_read": {},
            "_verdicts": {},
        }  # compiled patterns and models stay here

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

    def look(self, texts: Texts) -> Look:
        """`examine` for the rows of `texts` that are there, with what all clean rows have in common said once: one pass
        over the letters of all rows, and a close look at rows where it stops."""
        suspects = self._suspects(texts)
        rows = [
            row
            for row, (sample, is_pair) in enumerate(zip(texts.samples, texts.pairs, strict=True))
            if sample is not None
            and (
                row in suspects
                or not ((is_pair and not sample.tags and sample.group is None) or self._is_known_clean(sample))
            )
        ]
        samples = [sample for row in rows if (sample := texts.samples[row]) is not None]
        examined = self._closely(samples, [suspects.get(row, []) for row in rows])
        told = {row: one for row, one in zip(rows, examined, strict=True) if one is not None}
        return Look(told, {"level": self.policy.level, "level_found": self.policy.level})

    def _suspects(self, texts: Texts) -> dict[int, list[int] | None]:
        """Rows in whose texts there may be something, and in which of them; None: look at all. People known by name and
        models look at all texts of all rows."""
        if self.forgotten is not None or self._known or self._recognizers:
            return dict.fromkeys(range(len(texts)))
        suspects: dict[int, list[int] | None] = {}
        for page in texts.pages():
            for text in self.scanner.suspects(page):
                row = page.row_of(text)
                places = suspects.setdefault(row, [])
                assert places is not None, "none is stale yet"
                places.append(text - page.first[row - page.rows.start])
        return suspects | dict.fromkeys(texts.stale)

    def examine(self, samples: Sequence[Sample]) -> list[Examined]:
        told, _ = self.look(Texts(samples))
        return [told[row] if row in told else self._clean(sample) for row, sample in enumerate(samples)]

    def _closely(
        self, samples: Sequence[Sample], suspects: Sequence[list[int] | None] | None = None
    ) -> list[Examined | None]:
        """Of each row what there is to say of it; None of one that is as clean as most. `suspects`: the places of
        its texts that have to be read, None for all."""
        plain = [is_plain(sample) for sample in samples]
        texts = [texts_of(sample) for sample in samples]
        cues = [None if is_so else cues_of(sample) for sample, is_so in zip(samples, plain, strict=True)]
        cued = [
            text if lead is None else [cue + one for cue, one in zip(lead, text, strict=True)]
            for text, lead in zip(texts, cues, strict=True)
        ]
        hits_of = self._hits_of(cued, [
            range(len(own)) if suspects is None or not is_so or (some := suspects[at]) is None else some
            for at, (own, is_so) in enumerate(zip(cued, plain, strict=True))
        ])  # fmt: skip
        beside = [
            [] if is_so and not any(hits) and self._has_clean_tags(sample) else places_of(sample)
            for sample, is_so, hits in zip(samples, plain, hits_of, strict=True)
        ]
        self._remember(
            {place.cue + place.text for places in beside for place in places}
            | {cue + sample.group for sample in samples if sample.group for cue in ("", _GROUP)}
        )
        examined: list[Examined | None] = []
        for at, sample in enumerate(samples):
            hits = hits_of[at]
            read = [self._read[place.cue + place.text] for place in beside[at]] if beside[at] else []
            group = self._in_group(sample.group) if sample.group else []
            if any(hits) or any(read) or group or self.forgotten is not None:
                leads = cues[at] or [""] * len(texts[at])
                places = [Place(cue, text) for cue, text in zip(leads, texts[at], strict=True)] + beside[at]
                examined.append(self._examine(sample, Seen(places, len(texts[at]), hits + read, group)))
            else:
                if beside[at] and plain[at]:
                    self._clean_tags.update(item for item in sample.tags.items() if type(item[1]) is str)
                is_like_most = level_of(sample) is None and not sample.tags.get("parents")
                examined.append(None if is_like_most else self._clean(sample))
        return examined

    def _hits_of(self, texts: Sequence[list[str]], wanted: Sequence[Sequence[int]]) -> list[list[list[Finding]]]:
        """The findings in each row's texts, of which only those wanted are read."""
        hits_of: list[list[list[Finding]]] = [[[] for _ in own] for own in texts]
        places = [(at, place) for at, own in enumerate(wanted) for place in own]
        found = self.find([texts[at][place] for at, place in places])
        for (at, place), hits in zip(places, found, strict=True):
            hits_of[at][place] = hits
        return hits_of

    def _is_known_clean(self, sample: Sample) -> bool:
        """Whether there is nothing to look at but its texts, and nothing to say of it but what is said of most."""
        if not is_plain(sample) or (sample.group and not self._is_clean_group(sample.group)):
            return False
        tags = sample.tags
        return not tags or (level_of(sample) is None and not tags.get("parents") and self._has_clean_tags(sample))

    def _is_clean_group(self, group: str) -> bool:
        return self._read.get(group) == [] and self._read.get(_GROUP + group) is not None and not self._in_group(group)

    def _has_clean_tags(self, sample: Sample) -> bool:
        """Whether all its tags stood in clean rows before: columns mostly say the same few things."""
        if self.forgotten is not None:
            return False
        clean = self._clean_tags
        for item in sample.tags.items():
            if item[0] not in OURS and (type(item[1]) is not str or item not in clean):
                return False
        return True

    def _remember(self, strings: set[str]) -> None:
        """Read what was not read yet, all at once."""
        if len(self._read) > _REMEMBERED:
            self._read = {}
            self._clean_tags.clear()
        fresh = [string for string in strings if string not in self._read]
        if fresh:
            self._read |= zip(fresh, self.find(fresh), strict=True)

    def _in_group(self, group: str) -> list[Finding]:
        named = [hit for hit in self._read[_GROUP + group] if hit.end > len(_GROUP)]
        shifted = [hit._replace(start=max(0, hit.start - len(_GROUP)), end=hit.end - len(_GROUP)) for hit in named]
        return self._read[group] or shifted

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

    def _clean(self, sample: Sample) -> Examined:
        brought = level_of(sample)
        level = self.policy.level if brought is None else grade((brought, self.policy.level))
        return Examined((_tagged(sample, level, level, flags=False), ()), _derived(sample))

    def _examine(self, sample: Sample, seen: Seen) -> Examined:
        if any(seen.found):
            seen.found = complete([place.cue + place.text for place in seen.places], seen.found)
            seen.found = [_in_text(hits, place) for hits, place in zip(seen.found, seen.places, strict=True)]
            if sample.tags.get("made_by") in MADE:
                seen.found = [[hit for hit in hits if not self._is_ours(hit)] for hits in seen.found]
        if self._has_to_go(sample, seen):
            return self._dropped(sample, seen, "privacy_forgotten")
        actions = {self.policy.actions[hit.kind] for hit in seen.hits}
        if not actions:
            return self._clean(sample)
        if "drop" in actions:
            return self._dropped(sample, seen, "privacy_dropped")
        return self._told(sample if actions == {"keep"} else self._rewriting.masked(sample, seen), sample, seen)

    def _is_ours(self, hit: Finding) -> bool:
        """A pseudonym of ours, or a surname alone, in a text that was made of masked text."""
        return fakes.is_own(hit, self.keyring) or (hit.kind == "name" and len(hit.value) == 1)

    def _has_to_go(self, sample: Sample, seen: Seen) -> bool:
        """By findings, by whole short values that no detector knows, and by names wherever they stand."""
        if self.forgotten is None:
            return False
        macs = {self._mac(hit) for hit in seen.hits}
        beside = [place.text for place in seen.places[seen.num_texts :]] + [sample.group or ""]
        macs |= {mac for text in beside if text and len(text) <= 64 for mac in macs_of(text, self.keyring)}
        if not macs.isdisjoint(self.forgotten.macs):
            return True
        texts = [*(place.text for place in seen.places), sample.group or ""]
        return bool(self.forgotten.names) and any(self.forgotten.is_named_in(text, self.keyring) for text in texts)

    def _told(self, masked: Sample, sample: Sample, seen: Seen) -> Examined:
        """The row as it is now, graded, with what was done to it and its records."""
        what = level_of(sample), tuple([hit.kind for hit in seen.hits])
        if what not in self._verdicts:
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts = {}
            self._verdicts[what] = self._verdict(*what)
        level, before, fates = self._verdicts[what]
        masked = _tagged(masked, level, before, flags=fates[-1].action == "flag")
        return Examined((masked, fates), self._records(masked, sample_id(masked), seen, None) + _derived(masked))

    def _verdict(self, brought: Level | None, kinds: Sequence[str]) -> tuple[Level, Level, tuple[Fate, ...]]:
        """The level of a row with findings of these kinds, as it is now and as it was, and what is told of it."""
        kept = [kind for kind in kinds if self.policy.actions[kind] == "keep"]
        acted = [kind for kind in kinds if self.policy.actions[kind] != "keep"]
        base = grade([brought or "public", self.policy.level])
        level, before = (grade([base, *(KINDS[kind].level for kind in some)]) for some in (kept, kinds))
        fates = [Fate("change", "privacy_masked", {"found": counted(acted)})] if acted else []
        fates += [Fate("flag", "privacy_found", {"found": counted(kept)})] if kept else []
        return level, before, tuple(fates)

    def _dropped(self, sample: Sample, seen: Seen, reason: str) -> Examined:
        mark = "x_" + self.keyring.mac("secret", sample_id(sample))
        fate = Fate("drop", reason, {"found": counted([hit.kind for hit in seen.hits])})
        return Examined((None, (fate,)), self._records(sample, mark, seen, "drop"))

    def _mac(self, hit: Finding) -> str:
        return self.keyring.mac(KINDS[hit.kind].family, hit.value)

    def _records(self, sample: Sample, mark: str, seen: Seen, action: str | None) -> tuple[Record, ...]:
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
            for index, hits in enumerate((*seen.found, seen.group))
            for hit in hits
        )


def _in_text(hits: list[Finding], place: Place) -> list[Finding]:
    """Findings of a place with its cue, in its text alone; what stands in the cue is another place's."""
    lead = len(place.cue)
    if not lead or not hits:
        return hits
    return [hit._replace(start=max(0, hit.start - lead), end=hit.end - lead) for hit in hits if hit.end > lead]


def _derived(sample: Sample) -> tuple[Record, ...]:
    parents = sample.tags.get("parents")
    return ({"sample": sample_id(sample), "type": "derived", "parents": list(parents)},) if parents else ()


def _tagged(sample: Sample, level: Level, before: Level, *, flags: bool) -> Sample:
    tags = sample.tags | {"level": level, "level_found": before}
    if flags and "privacy_found" not in tags.get("flags", ()):
        tags["flags"] = [*tags.get("flags", ()), "privacy_found"]
    return with_tags(sample, tags)


def counted(kinds: Iterable[str]) -> str:
    """`mobile 2, name 1`: what a report may say of them."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(kinds).items()))
