"""Questions and answers about passages: what is asked of the teacher, and what makes its items fit to be trained on.

An item is refused unless every quote is found, every answer says no more than its quotes, and the question can be
understood by itself. An unanswerable question must be declined, and no passage of any document may answer it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.data.language import Language, language_of
from danlu.data.sample import Conversation, Message
from danlu.data.synthesis.belonging import fault_of_belonging
from danlu.data.synthesis.clauses import fault_of_clauses
from danlu.data.synthesis.evidence import MIN_QUOTE, Quotable, Span
from danlu.data.synthesis.facts import Fault, fault_of_answer, fault_of_core, fault_of_names, figures
from danlu.data.synthesis.passages import Library, Passage
from danlu.data.synthesis.prompts import fenced, messages, told
from danlu.data.synthesis.replies import parse_object, text_at, texts_at
from danlu.data.synthesis.teacher import Ask, Clearance
from danlu.data.synthesis.words import Reading

SUPPORT = {"fact": 0.65, "multi-turn": 0.6, "how": 0.55, "why": 0.55, "compare": 0.55}
"""Least share of an answer's content words that its evidence, the headings or the question must hold."""
MAX_QUESTION, MAX_ANSWER = 400, 2000
NUM_SEARCHED = 3
"""Passages that an unanswerable question is held against."""
_POINTING = re.compile(
    r"(?:上述|上面|下面|下述|本段|该段|这段|本文(?!件夹)|该文(?!件夹)|(?<!上下)文中|上文|(?<!上)下文|这篇|该篇|该资料|本资料|材料中|段落)"
    r"|以[上下](?:内容|材料|资料|文字|规定|条款|信息|描述|段落|所述)"
    r"|\b(?:the|this|that) (?:above|following )?(?:passage|text|excerpt|paragraph|document|section|article|snippet)\b"
    r"|\b(?:mentioned|described|stated|listed) above\b",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"(?:忽略|无视|忘记|不要理会)[^。\n]{0,12}(?:指令|指示|要求|提示|规则|设定)"
    r"|(?:你现在是|从现在起你|系统提示|请(?:直接)?(?:输出|回复|回答)[：:“\"])"
    r"|\b(?:ignore|disregard|forget)\b[^.\n]{0,30}\b(?:instructions?|prompts?|rules|above)\b"
    r"|\byou are now\b|\bsystem prompt\b|\b(?:reply|respond|answer|output) (?:only with\b|with [\"'“‘<])"
    r"|<\|[a-z_]+\|>|\[/?INST\]",
    re.IGNORECASE,
)
"""Sentences that speak to a model. In a document they may be quoted by nobody."""
_TURNING = re.compile(
    r"但是|但|不过|然而|通常|一般|\bbut\b|\bhowever\b|\busually\b|\btypically\b|\bgenerally\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, its answer, and where the passage says so."""

    question: str
    answer: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """An item that passed the rules. `tags` gather what later steps find out."""

    kind: str
    turns: tuple[Turn, ...]
    passage: Passage
    tags: dict[str, Any] = field(default_factory=dict, hash=False)

    def sample(self, teacher: str) -> Conversation:
        cited = [
            self.passage.cite(span) | ({"turn": number} if len(self.turns) > 1 else {})
            for number, turn in enumerate(self.turns)
            for span in turn.spans
        ]
        spoken = [m for t in self.turns for m in (Message("user", t.question), Message("assistant", t.answer))]
        tags = {
            "made_by": "teacher", "teacher": teacher, "question": self.kind, "parents": list(self.passage.parents),
            "evidence": cited, **self.passage.clearance.tags(), **self.tags,
        }  # fmt: skip
        return Conversation(tuple(spoken), self.passage.origin, group=self.passage.group, tags=tags)


def share_out(kinds: Sequence[str], num: int, passage: Passage) -> dict[str, int]:
    """How many of each kind to ask of a passage; where it begins among the kinds follows from the passage, so that a
    new file changes no other passage's request."""
    first = int(passage.digest[:8], 16)
    wanted = [kinds[(first + index) % len(kinds)] for index in range(num)]
    return {kind: wanted.count(kind) for kind in kinds if kind in wanted}


def ask_questions(passage: Passage, wanted: dict[str, int], *, temperature: float, seed: int) -> Ask:
    language = passage.language
    comma = "、" if language == "zh" else ", "
    user = told(
        language, "questions_wanted", headings=passage.headings.replace("\n", " > ") or "-", count=sum(wanted.values()),
        kinds=comma.join(f"{kind} × {count}" for kind, count in wanted.items()), passage=fenced(passage.text),
    )  # fmt: skip
    room = 400 + 350 * sum(count * (3 if kind == "multi-turn" else 1) for kind, count in wanted.items())
    system = told(language, "questions")
    return Ask(messages(system, user), passage.clearance, min(room, 8192), temperature, seed)


def check_item(
    item: dict[str, Any], passage: Passage, quotable: Quotable, kinds: Sequence[str], reading: Reading
) -> Draft | Fault:
    """The item as a draft, or why it is refused. Of a longer conversation the sound beginning is kept."""
    kind = text_at(item, "kind", "type").casefold().replace("_", "-").replace("multiturn", "multi-turn")
    turns = item.get("turns")
    if isinstance(turns, list):
        return (
            _check_turns(turns, passage, quotable, reading) if "multi-turn" in kinds else Fault("kind", {"given": kind})
        )
    if kind not in kinds or kind == "multi-turn":
        return Fault("kind", {"given": kind[:40]})
    turn = _check_turn(item, kind, passage, quotable, reading, before="")
    if isinstance(turn, Fault):
        return turn
    if kind == "compare" and len(turn.spans) < 2:
        return Fault("one_side", {})
    return Draft(kind, (turn,), passage)


def _check_turns(turns: list[Any], passage: Passage, quotable: Quotable, reading: Reading) -> Draft | Fault:
    sound: list[Turn] = []
    fault = Fault("shape", {})
    for given in turns:
        before = "\n".join(f"{turn.question}\n{turn.answer}" for turn in sound)
        turn = (
            _check_turn(given, "multi-turn", passage, quotable, reading, before=before)
            if isinstance(given, dict)
            else fault
        )
        if isinstance(turn, Fault):
            fault = turn
            break
        sound.append(turn)
    return Draft("multi-turn", tuple(sound), passage) if len(sound) > 1 else fault


def _check_turn(
    item: dict[str, Any], kind: str, passage: Passage, quotable: Quotable, reading: Reading, *, before: str
) -> Turn | Fault:
    question, answer = text_at(item, "question", "q", "query"), text_at(item, "answer", "a", "response")
    if not question or not answer:
        return Fault("shape", {})
    if len(question) > MAX_QUESTION or len(answer) > MAX_ANSWER or len(question) < 4:
        return Fault("length", {"given": f"{len(question)}/{len(answer)}"})
    fault = fault_of_question(question, passage, reading, before=before, is_open=kind == "unanswerable")
    if fault:
        return fault
    if language_of(answer) not in (passage.language, "other") and kind != "unanswerable":
        return Fault("language", {"given": language_of(answer)})
    quotes = texts_at(item, "evidence", "quotes", "quote")
    if kind == "unanswerable":
        return _declined(question, answer, quotes, passage, reading)
    if reading.declines(answer) and not any(reading.declines(quote) for quote in quotes):
        return Fault("declines", {})
    spans = found_spans(quotes, quotable, passage.language)
    if isinstance(spans, Fault):
        return spans
    # what stands between two marks of the same sentence is read together: numbers keep the words around them
    evidence = "\n".join(passage.text[span.start : span.end] for span in spans)
    about = f"{passage.headings}\n{question}\n{before}"
    fault = fault_of_answer(answer, evidence, about, reading, support=SUPPORT.get(kind, 0.6))
    fault = fault or fault_of_core(question, answer, evidence, reading)
    fault = fault or fault_of_belonging(question, answer, evidence, reading)
    fault = fault or fault_of_clauses(question, answer, evidence)
    return fault or Turn(question, answer, spans)


def fault_of_question(
    question: str, passage: Passage, reading: Reading, *, before: str = "", is_open: bool = False
) -> Fault | None:
    """Whether a question can be understood by itself and presumes nothing that the passage does not say. An open one,
    which nothing answers, may well name what the passage does not."""
    if language_of(question) not in (passage.language, "other"):
        return Fault("language", {"given": language_of(question)})
    if pointing := _POINTING.search(question):
        return Fault("points_at_text", {"given": pointing[0]})
    if _ORDERS.search(question):
        return Fault("injected", {"given": question[:60]})
    if is_open:
        return None
    source = f"{passage.headings}\n{passage.text}\n{before}"
    known = _numbers(source, reading)
    for number, _ in figures(reading.fold(question)):
        if number not in known and number != "1":
            return Fault("question_figure", {"given": number})
    unknown = fault_of_names(question, source)
    return Fault("question_name", unknown.values) if unknown else None


@functools.lru_cache(maxsize=64)
def _numbers(source: str, reading: Reading) -> frozenset[str]:
    return frozenset(number for number, _ in figures(reading.fold(source)))


def found_spans(quotes: Sequence[str], quotable: Quotable, language: Language) -> tuple[Span, ...] | Fault:
    """Where the quotes stand, in the passage's order, each place once."""
    if not quotes:
        return Fault("no_evidence", {})
    spans: set[Span] = set()
    for quote in quotes:
        found = quotable.find_all(quote)
        if found is None:
            return Fault("evidence_not_found", {"given": quote[:80]})
        spans |= set(found)
    if sum(span.end - span.start for span in spans) < MIN_QUOTE[language]:
        return Fault("evidence_short", {"given": quotes[0][:40]})
    for span in spans:
        if _ORDERS.search(quotable.text[span.start : span.end]):
            return Fault("injected", {"given": quotable.text[span.start : span.end][:60]})
    return tuple(sorted(spans, key=lambda span: (span.start, span.end)))


def _declined(question: str, answer: str, quotes: Sequence[str], passage: Passage, reading: Reading) -> Turn | Fault:
    """An unanswerable question is declined, without a figure of its own and without a but."""
    if not reading.declines(answer) or _TURNING.search(answer) or quotes:
        return Fault("does_not_decline", {"given": answer[:60]})
    asked = {number for number, _ in figures(reading.fold(question))}
    if {number for number, _ in figures(reading.fold(answer))} - asked:
        return Fault("does_not_decline", {"given": answer[:60]})
    if fault_of_names(answer, f"{question}\n{passage.headings}\n{passage.text}"):
        return Fault("does_not_decline", {"given": answer[:60]})
    return Turn(question, answer)


def ask_whether_answered(draft: Draft, library: Library, *, seed: int) -> tuple[Ask, list[Passage]]:
    """The unanswerable question again, with the passages of all documents that are most likely to answer it."""
    question = draft.turns[0].question
    near = [passage for passage in library.nearest(question, NUM_SEARCHED + 1) if passage is not draft.passage]
    shown = [draft.passage, *near[:NUM_SEARCHED]]
    language = draft.passage.language
    user = told(
        language, "answerable_asked", question=question, passages="\n\n".join(fenced(passage.text) for passage in shown)
    )
    clearance = Clearance.highest(passage.clearance for passage in shown)
    return Ask(messages(told(language, "answerable"), user), clearance, 512, 0.0, seed), shown


def fault_of_unanswerable(reply: str, draft: Draft, shown: Sequence[Passage], reading: Reading) -> Fault | None:
    """A fault when a passage does answer it, or when the teacher's second opinion cannot be read."""
    said = parse_object(reply)
    if said is None or "answer" not in said:
        return Fault("unchecked", {})
    answer = text_at(said, "answer")
    if not answer or reading.declines(answer) or answer.casefold() in ("null", "none"):
        return None
    for passage in shown:
        spans = found_spans(texts_at(said, "evidence", "quotes"), Quotable(passage.text), passage.language)
        if isinstance(spans, Fault):
            continue
        evidence = "\n".join(passage.text[span.start : span.end] for span in spans)
        about = f"{passage.headings}\n{draft.turns[0].question}"
        if fault_of_answer(answer, evidence, about, reading, support=0.5) is None:
            return Fault("answerable", {"given": passage.text[spans[0].start : spans[0].end][:80]})
    return None
