"""The template contract at the door: does this engine make of a conversation what training made of it?

Asked when an engine has started, and again for each lens before its name is given out. The artefact's golden
conversations are rendered by the engine; then its canaries are asked through it. Three grades:

    ids         the engine's token ids equal training's, one by one
    count       it shows no ids; prompt token counts equal training's, and the canaries' answers are right
    unverified  it could not be compared; only served where the operator said so
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from danlu.core.errors import EngineError, TemplateError
from danlu.core.messages import say
from danlu.data.contract import Contract, golden_conversations
from danlu.data.encode import Encoder
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.openai.turns import turn_of
from danlu.run.artifact import Manifest
from danlu.serving.canaries import AskedCanary, CanaryAnswers, ask_canaries, asked_canaries
from danlu.serving.chat_format import ChatFormat
from danlu.serving.drivers.driver import Can, Driver, endpoint
from danlu.serving.drivers.requests import ask

Level = Literal["ids", "count", "unverified"]
AROUND = 8
"""Tokens shown on either side of a difference."""


@dataclass(frozen=True, slots=True)
class Grade:
    """How an engine stood the door's questions; `asdict` makes JSON of it."""

    level: Level
    num_conversations: int = 0
    """Golden conversations that were rendered alike."""
    canaries: CanaryAnswers = field(default_factory=CanaryAnswers)
    why: str = ""
    """Why not better."""


def chat_format_of(contract: Contract, encoder: Encoder, can: Can) -> ChatFormat:
    """What must be done to conversations for an engine that knows nothing of the contract."""
    value = contract.value
    marks = tuple(sorted(encoder.tokenizer.control_tokens)) if can.reads_control else ()
    return ChatFormat(value["system"] or "", encoder.template.takes_system, value["thinking"] == "drop", marks)


def encoder_of(contract: Contract, folder: Path) -> Encoder:
    """The artefact's own tokenizer and template, under the trained system prompt and thinking mode."""
    tokenizer = Tokenizer.load(folder)
    value = contract.value
    return Encoder(tokenizer, Template.load(folder, tokenizer, system=value["system"], thinking=value["thinking"]))


@dataclass(frozen=True, slots=True)
class DoorQuestions:
    """What an artefact's engine is asked, made once: tokenizers are slow to read, and an engine that comes back is
    asked again while clients wait."""

    contract: Contract
    chat_format: ChatFormat
    conversations: Mapping[str, tuple[dict[str, Any], list[int]]]
    """Golden conversations up to the answer, as clients send them, with training's ids of the prompt."""
    control: frozenset[int]
    canaries: tuple[AskedCanary, ...]

    def is_alike(self, name: str, expected: Sequence[int], given: Sequence[int], can: Can) -> bool:
        """Ids equal; where control tokens in words were broken up, at least no more of them are real than should be."""
        if name == "control" and can.reads_control:
            return [id for id in given if id in self.control] == [id for id in expected if id in self.control]
        return list(given) == list(expected)


@dataclass(frozen=True, slots=True)
class _Door:
    """Who is asked, and what it is held to."""

    driver: Driver
    address: str
    secret: str
    engine_name: str
    folder: Path
    questions: DoorQuestions


async def check_engine(
    driver: Driver,
    address: str,
    secret: str,
    manifest: Manifest,
    engine_name: str,
    folder: Path,
    *,
    allow_unverified: bool = False,
    with_canaries: bool = True,
    most_canaries: int | None = None,
) -> Grade:
    """The grade; TemplateError or EngineError, with the difference, when the engine is not to be used. `with_canaries`
    is False for a bare base, whose answers are not those of the artefact; `most_canaries` asks the first few only."""
    questions = await asyncio.to_thread(_questions, _Artefact(manifest, folder), driver.can)
    at = _Door(driver, address, secret, engine_name, folder, questions)
    level, num_alike, why = await _compare(at)
    if level == "unverified" and not allow_unverified:
        raise TemplateError("drivers.unverified", where=address, driver=driver.name, why=why)
    answers = CanaryAnswers()
    if with_canaries and manifest.canaries:
        answers = await ask_canaries(
            driver, address, secret, questions.canaries[:most_canaries], questions.chat_format, engine_name
        )
        if not answers.is_right and (level != "unverified"):
            raise EngineError("drivers.canaries", where=f"{address} {engine_name}", **_told(answers))
    if level == "count" and with_canaries and not answers.num_asked:
        if not allow_unverified:
            raise TemplateError("drivers.unverified", where=address, driver=driver.name, why=say("drivers.no_canary"))
        level = "unverified"
    return Grade(level, num_alike, answers, why)


@dataclass(frozen=True, slots=True, eq=False)
class _Artefact:
    """Equal where the contents are: a manifest's digest covers its files, its contract and canaries are hashed here."""

    manifest: Manifest
    folder: Path

    def _key(self) -> tuple[object, ...]:
        said = self.manifest
        return (str(self.folder), said.digest, said.contract["digest"], said.canaries, said.parity.get("noise") is None)

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Artefact) and self._key() == other._key()


@functools.lru_cache(maxsize=64)
def _questions(artefact: _Artefact, can: Can) -> DoorQuestions:
    """Reads the artefact's tokenizer: in a thread."""
    manifest = artefact.manifest
    contract = Contract.from_json(manifest.contract)
    encoder = encoder_of(contract, artefact.folder)
    chat_format, golden = chat_format_of(contract, encoder, can), contract.value["golden"]
    found = {}
    for name, (messages, tools) in golden_conversations(encoder.template).items():
        if "refused" in golden.get(name, {"refused": ""}) or (tools and not can.tools):
            continue
        body: dict[str, Any] = {"messages": [turn_of(message) for message in messages[:-1]]}
        body |= {"tools": list(tools)} if tools else {}
        found[name] = (chat_format.apply(body), list(golden[name]["prompt"]))
    control = frozenset(encoder.tokenizer.control_tokens.values())
    return DoorQuestions(contract, chat_format, found, control, asked_canaries(manifest, encoder))


async def _compare(at: _Door) -> tuple[Level, int, str]:
    """(level, golden conversations alike, why not better). TemplateError when something is unlike."""
    num_alike = 0
    for name, (body, expected) in at.questions.conversations.items():
        given = await at.driver.prompt_ids(at.address, at.secret, body, at.engine_name)
        if given is None:
            return await _count(at)
        if not at.questions.is_alike(name, expected, given, at.driver.can):
            raise TemplateError("drivers.template", where=at.address, name=name, **_difference(at, expected, given))
        num_alike += 1
    return "ids", num_alike, ""


async def _count(at: _Door) -> tuple[Level, int, str]:
    """By the prompt tokens that usage tells; a system prompt that the engine adds, or a lost turn, shows there."""
    num_alike = 0
    for name, (body, expected) in at.questions.conversations.items():
        if name == "control":  # broken up, it has another number of tokens
            continue
        asked = at.driver.address_body(dict(body) | {"max_tokens": 1, "temperature": 0.0}, at.engine_name)
        reply = await ask(at.address, endpoint(at.address, "/chat/completions"), at.secret, asked, timeout_s=120.0)
        if not reply.is_good:
            return "unverified", num_alike, f"{name}: HTTP {reply.status}: {reply.said}"
        num_told = _prompt_tokens(reply.value)
        if num_told is None:
            return "unverified", num_alike, say("drivers.no_usage")
        if num_told != len(expected):
            raise TemplateError(
                "drivers.template_count", where=at.address, name=name, given=num_told, expected=len(expected)
            )
        num_alike += 1
    return "count", num_alike, say("drivers.only_counts")


def _prompt_tokens(value: Any) -> int | None:
    usage = value.get("usage") if isinstance(value, dict) else None
    told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return told if isinstance(told, int) else None


def _difference(at: _Door, expected: Sequence[int], given: Sequence[int]) -> dict[str, Any]:
    """Where they part, as people read it."""
    pairs = zip(expected, given, strict=False)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(given)))
    start, tokenizer = max(0, place - AROUND), Tokenizer.load(at.folder)

    def shown(ids: Sequence[int]) -> str:
        part = [token for token in ids[start : place + AROUND] if 0 <= token < tokenizer.vocab_size]
        return repr(tokenizer.decode(part, skip_control=False))

    return {"at": place, "expected": shown(expected), "given": shown(given)}


def _told(canaries: CanaryAnswers) -> dict[str, Any]:
    question, expected, given = canaries.parted[0]
    return {
        "num": len(canaries.parted), "of": canaries.num_asked, "prompt": question[:120], "expected": expected[:200],
        "given": given[:200],
    }  # fmt: skip
