"""A row's texts with what was found in them exchanged, each finding by the policy's word on its kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import danlu.data.privacy.fakes as fakes
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.keys import Keyring
from danlu.data.privacy.policy import Policy
from danlu.data.privacy.sight import Place, as_before, digest_of, seen_again
from danlu.data.privacy.structured import kept_valid
from danlu.data.sample import Sample, replace
from danlu.data.texts import with_texts


@dataclass(slots=True)
class Seen:
    """A row as privacy reads it. `places` are those of `texts_of`, then those of `sight`; `found` one list for each,
    counted in the place's text alone. `group` are findings in the group, which nothing but the group decides."""

    places: list[Place]
    num_texts: int
    found: list[list[Finding]]
    group: list[Finding]

    @property
    def hits(self) -> list[Finding]:
        return [hit for hits in (*self.found, self.group) for hit in hits]


class Rewriting:
    """An alias depends on the value and the secret alone."""

    def __init__(self, policy: Policy, keyring: Keyring) -> None:
        self.policy, self.keyring = policy, keyring

    def masked(self, sample: Sample, seen: Seen) -> Sample:
        fresh = [
            self._rewritten(place, hits) if hits else place.text
            for place, hits in zip(seen.places, seen.found, strict=True)
        ]
        masked = with_texts(sample, fresh[: seen.num_texts])
        if any(seen.found[seen.num_texts :]):
            put = iter(fresh[seen.num_texts :])
            masked = seen_again(masked, lambda cue, value, is_id: as_before(value, next(put)))
        if sample.group and self._acts(seen.group):
            masked = replace(masked, group=digest_of(sample.group, self.keyring.alias_bytes))
        return masked

    def _acts(self, hits: Sequence[Finding]) -> bool:
        return any(self.policy.actions[hit.kind] != "keep" for hit in hits)

    def _rewritten(self, place: Place, hits: list[Finding]) -> str:
        text = place.text
        if place.is_id and self._acts(hits):
            return digest_of(text, self.keyring.alias_bytes)
        chinese = fakes.is_chinese(place.cue + text)
        puts = [(hit.start, hit.end, self._put(hit, text[hit.start : hit.end], chinese=chinese)) for hit in hits]
        return kept_valid(text, puts)

    def _put(self, hit: Finding, shown: str, *, chinese: bool) -> str:
        match self.policy.actions[hit.kind]:
            case "mask":
                return fakes.mask(hit, shown)
            case "token":
                return fakes.type_token(hit.kind, chinese=chinese)
            case "pseudonym":
                return fakes.pseudonym(hit, shown, self.keyring)
            case _:
                return shown
