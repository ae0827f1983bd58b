"""English addresses: house number and street, with unit, town, state and postcode where they follow; P.O. boxes."""

from __future__ import annotations

import re

from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding

_KINDS = (
    "Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Court|Ct|Boulevard|Blvd|Way|Place|Pl|Square|"
    "Sq|Terrace|Close|Crescent|Highway|Hwy|Parkway|Pkwy|Circle|Row|Mews"
)
_STREET = f"[0-9]{{1,5}}[A-Za-z]? (?:[NSEW]\\.? )?(?:[A-Z][A-Za-z'-]{{1,20}} ){{1,4}}(?:{_KINDS})"
_BOX = "P\\.? ?O\\.? ?Box [0-9]{1,6}|PO Box [0-9]{1,6}"
_FORM = re.compile(f"{_STREET}(?![A-Za-z])(?:(?<=[^a-z][A-Z][a-z])\\.|(?<=[A-Z][a-z][a-z])\\.)?|{_BOX}")
_MORE = re.compile(
    r",?[ \n]{1,3}(?:(?:Apt|Suite|Ste|Unit|Flat|Floor|Room|No)\.? ?#?[0-9A-Za-z-]{1,6})|"
    r",[ \n]{0,3}(?:[A-Z][a-z'’-]+)(?: [A-Z][a-z'’-]+){0,2}(?=,|\n|\.|$| [A-Z]{2})|"
    r",?[ \n]{1,3}[A-Z]{2},? [0-9]{5}(?:-[0-9]{4})?|,?[ \n]{1,3}[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][A-Z]{2}|"
    r",?[ \n]{1,3}(?:[0-9]{5}(?:-[0-9]{4})?)(?![0-9])"
)


class EnglishAddresses:
    name = "addresses_en"
    version = 1
    pattern = f"{_STREET}|{_BOX}"
    gate = pattern
    opens = "0123456789P"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        if (
            spot.start > spot.low
            and (before := spot.text[spot.start - 1]).isascii()
            and (before.isalnum() or before in "._-")
        ):
            return [], spot.start
        found = _FORM.match(spot.text, spot.start, spot.high)
        if found is None:
            return [], spot.start
        end, begin = found.end(), spot.start
        while end - begin < 120 and (more := _MORE.match(spot.text, end, spot.high)) is not None:
            end = more.end()
        if found[0][0] == "0":  # our own invention: no house has the number 0
            return [], end
        return [Finding(begin, end, "address", 0.75, self.name, spot.text[begin:end])], end
