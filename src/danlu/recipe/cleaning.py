"""Chapter `data.cleaning`: what is mended in every row, which rows are left out, and what counts as a twin."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.section import Section

Action = Literal["drop", "flag", "keep"]


class CleaningSection(Section):
    """Every rule has an action: `drop` leaves the row out, `flag` keeps and names it in the report, `keep` is off."""

    normalise: bool = True
    """Write characters in one way (NFC), take out control and zero-width characters."""

    simplified: bool = False
    """Turn traditional Chinese characters into simplified ones (needs the package opencc)."""

    boilerplate: bool = True
    """Take out what pages and exports leave behind: tracking links, "click to expand", copyright lines."""

    refusals: Action = "drop"
    """Answers that refuse or speak of themselves as an AI ("作为一个人工智能…", "As an AI language model…")."""

    truncated: Action = "flag"
    """Answers and texts that break off in the middle of a sentence."""

    repetition: Action = "drop"
    """Texts that repeat the same characters, lines or passages over and over."""

    injection: Action = "drop"
    """Rows that try to override instructions ("ignore all previous instructions"), hide text or smuggle roles."""

    symbols: Action = "drop"
    """Texts that are mostly symbols, digits or garbled characters."""

    echo: Action = "drop"
    """Answers that only repeat the question."""

    json_answers: Action = "drop"
    """Answers that are no valid JSON where the prompt asks for JSON."""

    languages: tuple[str, ...] = ()
    """Languages to keep: zh, en, ja, ko, ru, ar, th, other; mixed text passes when one of its languages does. Empty
    keeps all."""

    min_chars: int = Field(0, ge=0)
    """Shortest text of a document, in characters; 0 has no limit."""

    max_chars: int = Field(0, ge=0)
    """Longest text of a row, in characters; 0 has no limit."""

    near_duplicates: Action = "drop"
    """Rows that are nearly the same as a kept one, verified; exact copies are `data.duplicates`."""

    similarity: float = Field(0.7, ge=0.5, le=1)
    """Share of common character sequences (Jaccard) from which two rows are near-duplicates."""

    evaluation_sets: tuple[str, ...] = ()
    """Files with evaluation items that training must not hold, beside the project's own questions."""

    contaminated: Action = "drop"
    """Rows that hold an item of `evaluation_sets`, of the project's own questions, or of danlu's own probes."""

    rules: dict[str, Action] = Field(default_factory=dict)
    """Rules of other packages, by the name of their entry point in `danlu.cleaners`, each with its action."""
