"""What an OpenAI-compatible server really does, asked before anything is measured on it. Torch-free.

Five questions: is the model there, does it answer, does its template make the tokens that training made, does it say
the same twice at temperature 0, and does it give the log-probabilities of a text it is shown. A server that ignores
`echo` answers all the same, and every multiple-choice score on it is chance; so log-likelihoods are refused unless they
were seen to be real.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from danlu.core.errors import EngineError
from danlu.core.files import dump_json
from danlu.core.messages import listed, say
from danlu.data.sample import Message
from danlu.engines.engine import Answer, Question, Sampling
from danlu.engines.remote import Endpoint, RemoteEngine
from danlu.engines.wire import DeclinedError, TransientError, Wire
from danlu.openai.address import Address

ECHOED = "The capital of France is Paris, and water boils at 100 degrees."
NUM_REPEATS = 3
Outcome = Literal["pass", "fail", "unknown"]
_ASKED = ("用一句话介绍你自己。", "List three colours.")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried; `said` is for people, in their language."""

    name: Literal["models", "answers", "template", "determinism", "logprobs"]
    outcome: Outcome
    said: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "outcome": self.outcome, "said": self.said}


@dataclass(frozen=True, slots=True)
class SelfTest:
    """All findings of one model at one address."""

    where: str
    findings: tuple[Finding, ...]

    @property
    def can_answer(self) -> bool:
        return self._outcome("answers") == "pass" and self._outcome("models") != "fail"

    @property
    def can_score(self) -> bool:
        """Log-likelihood tasks may be run here."""
        return self._outcome("logprobs") == "pass"

    @property
    def is_repeatable(self) -> bool:
        return self._outcome("determinism") == "pass"

    def require(self, *, scores: bool = False) -> None:
        """EngineError where the server does not answer, renders another prompt, or cannot score although asked to."""
        for finding in self.findings:
            is_needed = finding.name in ("models", "answers", "template") or (scores and finding.name == "logprobs")
            if finding.outcome == "fail" and is_needed:
                raise EngineError("self_test.failed", where=self.where, check=finding.name, said=finding.said)
        if scores and not self.can_score:
            said = next((finding.said for finding in self.findings if finding.name == "logprobs"), "-")
            raise EngineError("self_test.failed", where=self.where, check="logprobs", said=said)

    def to_json(self) -> dict[str, Any]:
        return {"where": self.where, "findings": [finding.to_json() for finding in self.findings],
                "can_answer": self.can_answer, "can_score": self.can_score}  # fmt: skip

    def _outcome(self, name: str) -> Outcome:
        return next((finding.outcome for finding in self.findings if finding.name == name), "unknown")


def self_test(endpoint: Endpoint, *, num_tokens: Callable[[Question], int] | None = None) -> SelfTest:
    """Ask the server. `num_tokens` counts a question's prompt as training rendered it; without it the template is
    only looked at from outside. Nothing is cached. EngineError where nobody answers at all."""
    address = Address.parse(endpoint.url)
    wire = Wire(address, key=endpoint.read_key(), timeout_s=endpoint.timeout_s, ca_file=endpoint.ca_file)
    engine = RemoteEngine(endpoint)
    findings = [_models(wire, endpoint.model)]
    answered = _answers(engine)
    findings.append(answered[0])
    if answered[0].outcome == "pass":
        findings += [_template(engine, num_tokens), _determinism(answered[1]), _logprobs(wire, endpoint.model)]
    return SelfTest(f"{address} ({endpoint.model})", tuple(findings))


def _models(wire: Wire, model: str) -> Finding:
    try:
        found = orjson.loads(wire.get("/models"))
        names = [wire.scrub(str(entry["id"])) for entry in found["data"]]
    except (EngineError, TransientError, DeclinedError, orjson.JSONDecodeError, KeyError, TypeError) as fault:
        return Finding("models", "unknown", say("self_test.models_unknown", said=str(fault)[:120]))
    if model in names:
        return Finding("models", "pass", say("self_test.models_pass", model=model, num=len(names)))
    return Finding(
        "models",
        "fail",
        say("self_test.models_fail", model=model, known=listed(name[:60] for name in names[:8]) or "-"),
    )


def _answers(engine: RemoteEngine) -> tuple[Finding, list[list[Answer]]]:
    """All repeats at once: a batch of other neighbours is where servers waver."""
    questions = [Question((Message("user", text),)) for text in _ASKED]
    rounds = engine.generate(questions * NUM_REPEATS, Sampling(max_new_tokens=24))
    failed = [answer.error for answer in rounds if answer.finish == "error"]
    if failed:
        return Finding("answers", "fail", say("self_test.answers_fail", said=failed[0][:200])), []
    seconds = sorted(answer.seconds for answer in rounds)[len(rounds) // 2]
    found = Finding("answers", "pass", say("self_test.answers_pass", seconds=f"{seconds:.2f}"))
    return found, [rounds[place :: len(questions)] for place in range(len(questions))]


def _determinism(rounds: Sequence[Sequence[Answer]]) -> Finding:
    texts = [{answer.text for answer in again} for again in rounds]
    if all(len(said) == 1 for said in texts):
        return Finding("determinism", "pass", say("self_test.determinism_pass", num=NUM_REPEATS))
    one, other = sorted(next(said for said in texts if len(said) > 1))[:2]
    return Finding("determinism", "fail", say("self_test.determinism_fail", one=one[:60], other=other[:60]))


def _template(engine: RemoteEngine, num_tokens: Callable[[Question], int] | None) -> Finding:
    """The server's count of prompt tokens beside training's, for turns that templates treat differently."""
    chats = (
        (Message("user", "你好"),),
        (Message("system", "You are brief."), Message("user", "Name three colours.")),
        (Message("user", "hi"), Message("assistant", "Hello."), Message("user", "2+2=?")),
    )
    for turns in chats:
        question = Question(turns)
        (answer,) = engine.generate([question], Sampling(max_new_tokens=1))
        if answer.finish == "error" or not answer.num_prompt_tokens or engine.bill.num_estimated:
            return Finding("template", "unknown", say("self_test.template_uncounted"))
        if num_tokens is None:
            continue
        expected = num_tokens(question)
        if answer.num_prompt_tokens != expected:
            return Finding("template", "fail", say("self_test.template_fail", text=turns[-1].content,
                                                   given=answer.num_prompt_tokens, expected=expected))  # fmt: skip
    if num_tokens is None:
        return Finding("template", "unknown", say("self_test.template_unknown"))
    return Finding("template", "pass", say("self_test.template_pass", num=len(chats)))


def _logprobs(wire: Wire, model: str) -> Finding:
    try:
        log_probs = echoed(wire, model, ECHOED)
    except (EngineError, TransientError, DeclinedError) as fault:
        return Finding("logprobs", "fail", say("self_test.logprobs_refused", said=str(fault)[:160]))
    except EchoError as fault:
        return Finding("logprobs", "fail", say("self_test.logprobs_fail", why=say(f"self_test.echo_{fault.why}")))
    return Finding("logprobs", "pass", say("self_test.logprobs_pass", num=len(log_probs)))


class EchoError(Exception):
    """The reply holds no log-probabilities of the shown text; `why` is a catalogue key's end."""

    def __init__(self, why: Literal["shape", "ignored", "flat"]) -> None:
        super().__init__(why)
        self.why = why


def echoed(wire: Wire, model: str, prompt: str | Sequence[int]) -> list[float]:
    """log p of each prompt token but the first, by `/completions` with echo. `prompt` is a text or token ids.

    EchoError when what came back cannot be that: no list, only the new token's, or numbers that are all alike.
    """
    body = {"model": model, "prompt": prompt if isinstance(prompt, str) else list(prompt), "max_tokens": 1,
            "temperature": 0, "logprobs": 1, "echo": True}  # fmt: skip
    content = wire.post("/completions", dump_json(body, indent=False))
    try:
        reply = orjson.loads(content)
        choice = reply["choices"][0]
        log_probs = choice["logprobs"]["token_logprobs"]
        num_prompt = (reply.get("usage") or {}).get("prompt_tokens")
        is_list = isinstance(log_probs, list) and all(p is None or isinstance(p, float | int) for p in log_probs)
        shown = choice.get("text") or ""
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as fault:
        raise EchoError("shape") from fault
    if not is_list or not isinstance(shown, str):
        raise EchoError("shape")
    num_prompt = len(prompt) if not isinstance(prompt, str) else num_prompt
    is_shown = shown.startswith(prompt) if isinstance(prompt, str) else True
    num_wanted = num_prompt if isinstance(num_prompt, int) else 3
    if len(log_probs) < num_wanted or len(log_probs) < 2 or not is_shown:
        raise EchoError("ignored")
    if isinstance(num_prompt, int) and len(log_probs) > num_prompt + 1:
        raise EchoError("shape")
    told = [float(p) for p in log_probs[1 : num_prompt if isinstance(num_prompt, int) else len(log_probs) - 1] if
            p is not None]  # fmt: skip
    if isinstance(num_prompt, int) and len(told) != num_prompt - 1:
        raise EchoError("shape")
    if any(math.isnan(p) or p > 1e-3 for p in told) or (len(told) > 3 and len(set(told)) == 1):
        raise EchoError("flat")
    return told
