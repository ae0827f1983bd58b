"""Edge: the user's own edge cases (sarcasm, negation, questions that no document answers), beside ordinary controls."""

from __future__ import annotations

from danlu.evaluation.tasks.kinds import OfKinds


class Edge(OfKinds):
    name = "edge"
