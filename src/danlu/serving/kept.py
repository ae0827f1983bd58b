"""Questions and answers that were kept, as feedback needs them: the turns that were asked, and what was answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from danlu.serving.bodies import Body, kept_bodies
from danlu.serving.feedback import Kept


def read_kept(home: Path, ids: Collection[str]) -> dict[str, Kept]:
    """By id, of those that were asked for and are still there."""
    wanted = set(ids)
    return {body.id: _kept(body) for body in kept_bodies(home) if body.id in wanted}


def _kept(body: Body) -> Kept:
    asked = body.question
    turns = asked.get("messages")
    if turns is None:
        prompt = asked.get("prompt")
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    answer = body.answers[0].get("content") if body.answers else ""
    return Kept(tuple(_turn(turn) for turn in turns), answer or "", tuple(asked.get("tools") or ()))


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's parts become their text."""
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return {**turn, "content": content or ""}
