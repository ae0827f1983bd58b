"""Between the gateway and the file of bodies: bytes that went over the wire become a question and an answer's text; and
the way back, for feedback that shall train.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import orjson

from danlu.serving.bodies import FOLDER, Bodies, Body
from danlu.serving.feedback import Kept
from danlu.serving.keys import Key


class BodyKeeper:
    """The gateway's `Keeper`."""

    def __init__(self, bodies: Bodies, *, now: Callable[[], float] = time.time) -> None:
        self._bodies, self._now = bodies, now

    def keep(self, id: str, key: Key, lens: str, question: bytes, answer: bytes, is_stream: bool) -> None:
        try:
            asked = orjson.loads(question)
            text = text_of_stream(answer) if is_stream else text_of_reply(orjson.loads(answer))
        except orjson.JSONDecodeError:  # cut at the bound of what is handed over
            return
        self._bodies.keep(Body(id, self._now(), key.id, str(asked.get("model", "")), lens, asked, text))


def text_of_reply(reply: Any) -> str:
    """Of a chat or a completion, the first choice's words."""
    try:
        choice = reply["choices"][0]
        said = choice["message"]["content"] if "message" in choice else choice["text"]
    except (KeyError, IndexError, TypeError):
        return ""
    return said if isinstance(said, str) else ""


def text_of_stream(events: bytes) -> str:
    """The first choice's pieces, joined."""
    parts = []
    for line in events.split(b"\n"):
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        try:
            choices = orjson.loads(line[5:])["choices"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
        for choice in choices:
            if choice.get("index", 0) == 0:
                said = (choice.get("delta") or {}).get("content") or choice.get("text")
                parts.append(said if isinstance(said, str) else "")
    return "".join(parts)


def read_kept(home: Path, ids: Collection[str]) -> dict[str, Kept]:
    """Questions and answers by id, of those that were asked for and are still there."""
    wanted, found = set(ids), dict[str, Kept]()
    for path in sorted((home / FOLDER).glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                try:
                    body = orjson.loads(line)
                    if body["id"] in wanted:
                        found[body["id"]] = _kept(body)
                except (orjson.JSONDecodeError, KeyError, TypeError):  # torn by a crash
                    continue
    return found


def _kept(body: Mapping[str, Any]) -> Kept:
    asked = body["question"]
    turns = asked.get("messages")
    if turns is None:
        prompt = asked.get("prompt")
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    return Kept(tuple(_turn(turn) for turn in turns), str(body["answer"]), tuple(asked.get("tools") or ()))


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's parts become their text."""
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return {**turn, "content": content or ""}
