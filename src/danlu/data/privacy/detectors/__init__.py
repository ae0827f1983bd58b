"""The shelf of detectors. Adding one: a file with a `Rule` (see detector.py), a line here, its kinds in finding.py.

A model that finds names is a `Recognizer` in another package, with an entry point in the group `danlu.detectors`, and
is switched on by its name in `data.privacy.recognizers`.
"""

from danlu.core.shelf import Shelf
from danlu.data.privacy.detectors.detector import Recognizer, Rule, Spot

DETECTORS: Shelf[type[Rule]] = Shelf(
    "detectors",
    {
        "numbers": "danlu.data.privacy.detectors.numbers:Numbers",
        "numbers_apart": "danlu.data.privacy.detectors.numbers:Apart",
        "codes": "danlu.data.privacy.detectors.codes:Codes",
        "secrets": "danlu.data.privacy.detectors.secrets:Known",
        "secrets_by_word": "danlu.data.privacy.detectors.secrets:Cued",
        "links": "danlu.data.privacy.detectors.secrets:Links",
        "network": "danlu.data.privacy.detectors.network:Addresses",
        "email": "danlu.data.privacy.detectors.network:Email",
        "birth_dates": "danlu.data.privacy.detectors.birth_dates:BirthDates",
        "accounts": "danlu.data.privacy.detectors.accounts:Accounts",
        "names_zh": "danlu.data.privacy.detectors.names_zh:ChineseNames",
        "names_en": "danlu.data.privacy.detectors.names_en:EnglishNames",
        "addresses_zh": "danlu.data.privacy.detectors.addresses_zh:ChineseAddresses",
        "addresses_en": "danlu.data.privacy.detectors.addresses_en:EnglishAddresses",
    },
)
"""In the order in which they are asked at one place, until one finds something."""

__all__ = ["DETECTORS", "Recognizer", "Rule", "Spot"]
