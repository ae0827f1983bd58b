"""The shelf of cleaners: what is mended in a row, and which rows are not worth learning from.

A rule looks at a batch of rows and names those it objects to (`cleaner.py`); the recipe says for each whether such
rows are dropped or flagged. Adding one: a file with a `Rule`, a line in `CLEANERS`, an action of the same name in the
recipe chapter `data.cleaning`, and the text of its reasons in the room `ledger`. Another package's rule needs none of
this: an entry point in `danlu.cleaners`, and a line in `data.cleaning.rules`. `build` makes the row stages of a recipe:
`normalise` and `boilerplate` change texts, `clean` holds all rules.
"""

from __future__ import annotations

from danlu.data.cleaners.clean import Clean
from danlu.data.cleaners.cleaner import Batch, Finding, Rule
from danlu.data.cleaners.stages import CLEANERS, build, foreign_rules

__all__ = ["CLEANERS", "Batch", "Clean", "Finding", "Rule", "build", "foreign_rules"]
