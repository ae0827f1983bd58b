"""English names by cue (`Mr.`, `my name is`, `Dear`) and by common given names in front of a capitalised word.

Published recall, no promise of completeness; see names_zh.py.
"""

from __future__ import annotations

import re

from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.words import words

GIVEN_EN = frozenset().union(*words("given_en"))
_TITLES = "Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Sir|Madam|mr|mrs|ms|dr"
_PHRASES = (
    "[Mm]y name is|[Nn]ame is|[Nn]ame's|[Nn]ame:|[Nn]amed|[Cc]all me|[Tt]his is|[Ii]'m|I am|"
    "[Dd]ear|[Pp]atient|[Pp]atient:|[Cc]ontact:?|[Cc]ustomer:?|"
    "[Cc]lient:?|[Ee]mployee:?|[Rr]egards,|[Ss]incerely,|[Tt]hanks,|[Cc]heers,|[Ss]igned:?|"
    "[Aa]ttn:?|[Aa]ttention:?|[Cc]ardholder:?|[Aa]ccount holder:?|"
    "[Ss]peak (?:to|with)|[Ss]poke (?:to|with)|[Mm]eet(?:ing)? with|[Bb]eneficiary:?|"
    "[Gg]uardian:?|[Hh]i|[Hh]ello|[Hh]ey"
)
_UPPER = "A-ZÀ-ÖØ-ÞĀ-Ž"
_LOWER = "a-zß-öø-ÿĀ-ž"
_WORD = f"[{_UPPER}][{_LOWER}{_UPPER}'’-]{{1,24}}"
_PARTICLE = "(?:van|von|de|der|den|la|le|di|da|bin|al)(?: der| den| la)?"
_NAME = re.compile(f"{_WORD}(?: (?:{_WORD}|[A-Z]\\.?(?![a-z])|{_PARTICLE})){{0,3}}")
_TITLE = re.compile(f"(?:{_TITLES})\\.?[ ]{{1,2}}")
_PHRASE = re.compile(f"(?:{_PHRASES})[ ,\\n]{{1,3}}")
_GIVEN_SORTED = sorted(GIVEN_EN)
_WEAK_PHRASE = re.compile(
    "this is|i'm|i am|patient|contact|customer|client|employee|named|attention|hi|hello|hey|speak|spoke|meet|call me",
    re.I,
)
_NO_NAME = frozenset().union(*words("no_names_en"))


class EnglishNames:
    name = "names_en"
    version = 1
    pattern = (
        f"(?:{_TITLES})\\.?[ ]{{1,2}}[{_UPPER}]|(?:{_PHRASES})[ ,\n]{{1,3}}[{_UPPER}]|"
        f"(?:{'|'.join(_GIVEN_SORTED)}) (?:[A-Z]\\.? )?[{_UPPER}][{_LOWER}']"
    )
    gate = f"\\b(?:{pattern})"
    opens = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        if (
            spot.start > spot.low
            and (before := spot.text[spot.start - 1]).isascii()
            and (before.isalnum() or before in "_.")
        ):
            return [], spot.start
        title = _TITLE.match(spot.text, spot.start, spot.high)
        if title is not None and (name := self._read(spot, title.end(), 0.8, least=1)):
            return [name], name.end
        phrase = _PHRASE.match(spot.text, spot.start, spot.high)
        if phrase is not None:
            is_weak = bool(_WEAK_PHRASE.match(phrase[0]))
            name = self._read(spot, phrase.end(), 0.6 if is_weak else 0.75, least=2 if is_weak else 1)
            return ([name], name.end) if name else ([], phrase.end())
        name = self._read(spot, spot.start, 0.65, least=2)
        if name is not None and name.value.split()[0] in GIVEN_EN:
            return [name], name.end
        return [], spot.start

    def _read(self, spot: Spot, begin: int, score: float, *, least: int) -> Finding | None:
        """A name of at least `least` words; a given name that everybody knows counts alone."""
        title = _TITLE.match(spot.text, begin, spot.high)
        if title is not None:
            begin, least = title.end(), 1
        found = _NAME.match(spot.text, begin, spot.high)
        if found is None:
            return None
        parts = found[0].split(" ")
        for index, part in enumerate(parts):
            if part.rstrip(".'’-") in _NO_NAME and not (index and len(part) == 2 and part[1] == "."):
                parts = parts[:index]
                break
        while parts and not parts[-1][0].isupper():
            parts.pop()
        if len(parts) < least and not (len(parts) == 1 and parts[0] in GIVEN_EN):
            return None
        if not parts:
            return None
        name = " ".join(parts)
        for possessive in ("'s", "’s"):
            name = name.removesuffix(possessive)
        name = name.rstrip("'’-")
        if len(name) < 2 or (name.isupper() and len(parts) == 1):
            return None
        return Finding(begin, begin + len(name), "name", score, self.name, name)
