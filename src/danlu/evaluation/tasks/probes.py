"""Probes: danlu's own suites of edge cases (`evaluation/probes.py`), the same for every project.

Where `edge` asks the user's edge cases, these ask whether a model still hears irony and negation, stands typing errors,
keeps a secret, keeps to a form, and says when a text does not say.
"""

from __future__ import annotations

from danlu.evaluation.tasks.kinds import OfKinds


class Probes(OfKinds):
    name = "probes"
