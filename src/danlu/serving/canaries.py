"""An artefact's canaries, asked through an engine as clients ask: chat requests, greedy, compared with the answers that
were recorded when it was sealed.

A canary is kept as a rendered prompt; its question is found again by the artefact's own template, and only taken when
that renders to the very same ids. Where an answer parts from the recorded one and the engine tells log-probabilities,
it is no fault when the engine was undecided there: within what the artefact's proof measured as noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.core.errors import EngineError, TemplateError
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.run.artifact import Canary, Manifest
from danlu.serving.chat_format import ChatFormat
from danlu.serving.drivers.driver import Driver, endpoint
from danlu.serving.drivers.requests import demand

NUM_TOLD = 10
"""Alternatives asked for at each place."""
MARGIN_FACTOR = 4.0
"""Two logits, each moved the wrong way by twice the most that was measured."""
ANSWER_S = 120.0
_PROBE = "q8Zk"


@dataclass(frozen=True, slots=True)
class CanaryAnswers:
    """How an engine answered the canaries. `parted` are (question, recorded, given) that differ beyond noise."""

    num_asked: int = 0
    num_equal: int = 0
    num_undecided: int = 0
    parted: tuple[tuple[str, str, str], ...] = ()
    tells_log_probs: bool = False

    @property
    def is_right(self) -> bool:
        """An engine that tells no log-probabilities cannot show that it was undecided: half must be equal."""
        return not self.parted if self.tells_log_probs else 2 * len(self.parted) <= self.num_asked


@dataclass(frozen=True, slots=True)
class AskedCanary:
    """A canary with the words of its question; `margin` is what its artefact's proof measured as noise of a logit."""

    question: str
    canary: Canary
    margin: float


def asked_canaries(manifest: Manifest, encoder: Encoder) -> tuple[AskedCanary, ...]:
    """Those whose question can be found again."""
    margin = MARGIN_FACTOR * float(manifest.parity.get("noise", {}).get("max_abs", 0.0))
    found = ((question_of(canary, encoder), canary) for canary in manifest.canaries)
    return tuple(AskedCanary(question, canary, margin) for question, canary in found if question is not None)


async def ask_canaries(
    driver: Driver,
    address: str,
    secret: str,
    canaries: Sequence[AskedCanary],
    chat_format: ChatFormat,
    engine_name: str,
) -> CanaryAnswers:
    num_equal = num_undecided = 0
    parted: list[tuple[str, str, str]] = []
    for each in canaries:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": each.question}], "temperature": 0.0,
            "max_tokens": len(each.canary.answer_ids),
        }  # fmt: skip
        if driver.can.logprobs:
            body |= {"logprobs": True, "top_logprobs": NUM_TOLD}
        asked = driver.address_body(chat_format.apply(body), engine_name)
        reply = await demand(address, endpoint(address, "/chat/completions"), secret, asked, timeout_s=ANSWER_S)
        given, places = _answer(reply, address)
        if given.strip() == each.canary.answer.strip():
            num_equal += 1
        elif _lead(places, each.canary.answer) <= each.margin:
            num_undecided += 1
        else:
            parted.append((each.question, each.canary.answer, given))
    return CanaryAnswers(len(canaries), num_equal, num_undecided, tuple(parted), driver.can.logprobs)


def question_of(canary: Canary, encoder: Encoder) -> str | None:
    """The words of the one user turn that renders to the canary's ids; None where there is no such."""
    try:
        text = encoder.template.render([Message("user", _PROBE)], (), add_generation_prompt=True).text
        before, _, after = text.partition(_PROBE)
        if not canary.prompt.startswith(before) or not canary.prompt.endswith(after):
            return None
        question = canary.prompt[len(before) : len(canary.prompt) - len(after)]
        ids = encoder.encode_prompt([Message("user", question)])
    except TemplateError:
        return None
    return question if tuple(ids) == canary.prompt_ids else None


def _answer(reply: Any, address: str) -> tuple[str, list[dict[str, Any]]]:
    try:
        choice = reply["choices"][0]
        told = (choice.get("logprobs") or {}).get("content") or []
        return choice["message"].get("content") or "", list(told)
    except (KeyError, IndexError, TypeError, AttributeError) as fault:
        raise EngineError("drivers.no_answer", where=address, said=str(reply)[:200]) from fault


def _lead(places: Sequence[dict[str, Any]], recorded: str) -> float:
    """By how much (natural log) the engine preferred its own token to one that goes on as recorded, where they part."""
    said = ""
    for place in places:
        token = str(place.get("token", ""))
        if recorded.startswith(said + token) and token:
            said += token
            continue
        rest = recorded[len(said) :]
        others = [each for each in place.get("top_logprobs") or () if _goes_on(str(each.get("token", "")), rest)]
        if not others:
            return float("inf")
        return float(place["logprob"]) - max(float(each["logprob"]) for each in others)
    return float("inf")


def _goes_on(token: str, rest: str) -> bool:
    """Whether a token begins the rest; where nothing is left, one that ends the turn does."""
    return bool(token) and (rest.startswith(token) if rest else token.startswith("<"))
