"""What synthesis brought: asked, answered, parsed, grounded, kept; why the rest was refused; what it cost."""

from __future__ import annotations


class Yield:
    """Counts of one synthesis."""
