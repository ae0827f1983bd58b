"""synthesise: documents in, checked samples out. The join of this folder; each kind of sample has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import EngineError
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.data.language import Language, language_of
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document, Origin, Preference, Sample, replace
from danlu.data.synthesis.evidence import Quotable
from danlu.data.synthesis.facts import Fault
from danlu.data.synthesis.instruct import (
    PATIENCE,
    PER_REQUEST,
    PER_ROUND,
    Pool,
    ask_tasks,
    check_task,
    sample_of,
    seed_tasks,
)
from danlu.data.synthesis.paraphrases import ask_wordings, check_wordings, read_wordings, with_question
from danlu.data.synthesis.passages import Library, Passage, passages_of
from danlu.data.synthesis.preferences import ask_base, can_be_asked, pair_of
from danlu.data.synthesis.quality import Judged, ask_judge, disagree, points_of, verdict
from danlu.data.synthesis.questions import (
    Draft,
    ask_questions,
    ask_whether_answered,
    check_item,
    fault_of_unanswerable,
    share_out,
)
from danlu.data.synthesis.replies import parse_items
from danlu.data.synthesis.teacher import Ask, Clearance, Reply, Teacher, check_cleared
from danlu.data.synthesis.words import Reading, rouge_l, tokens_of
from danlu.data.synthesis.yields import Yield
from danlu.recipe.synthesis import SynthesisSection

TEMPERATURE, SEED = 0.7, 3407
SAME_QUESTION = 0.85
"""ROUGE-L from which two questions about one passage are one."""


def synthesise(
    documents: Sequence[Document],
    seeds: Sequence[Sample],
    section: SynthesisSection,
    teacher: Teacher,
    cache_folder: Path,
    ledger: Ledger,
    progress: Progress,
    *,
    reading: Reading,
    base: Teacher | None = None,
    answered: Sequence[Conversation] = (),
) -> list[Sample]:
    """Samples made from `documents` (masked and graded before, where the teacher is external) and from `seeds` (example
    tasks; empty takes danlu's own). `reading` says when texts agree. `base` answers for the rejected side of pairs, to
    the questions that were made and to those of `answered`, conversations that the user brought along.

    Every answer about a document cites spans that were found in it: `tags["evidence"]` is a list of {document, start,
    end, text}, offsets into the document's extracted text, `text` as it stands there. Further tags: `made_by`
    "teacher", `parents` ids of the documents, `level` and `masked` inherited, `question` its kind, `teacher` its name.
    `group` is the document's, so that no question of a document is split from it; `origin` is the passage's.

    The same input and replies give the same samples in the same order. Replies lie in the teacher's cache, so a
    run that was killed asks only what is missing. `cache_folder` gets `yield.json` (asked, parsed, grounded, kept,
    reasons, cost, what a cap left undone) and `refused.jsonl` (every refused item with its reason). Kept samples count
    as used rows in the ledger; refused items are no rows of the user's and stand in the yield alone.

    DataError when something that is not masked, or of a level the recipe does not name, would leave this machine;
    EngineError when a step's requests all fail.
    """
    work = _Work(section, teacher, base, reading, progress, Yield())
    made: list[Conversation] = []
    try:
        if section.questions:
            made += work.about(documents)
        if section.instructions:
            made += work.tasks(seeds)
        if section.min_quality:
            made = work.judged(made)
        if section.paraphrases:
            made += work.reworded(made)
        pairs = work.pairs([*made, *filter(can_be_asked, answered)]) if section.preferences else []
    finally:
        work.tally.cost = {"teacher": teacher.cost()} | ({"base": base.cost()} if base not in (None, teacher) else {})
        work.tally.write(cache_folder)
    for sample in made:
        work.tally.keep(str(sample.tags["question"]))
    for _ in pairs:
        work.tally.keep("preference")
    work.tally.write(cache_folder)
    ledger.use(len(made) + len(pairs))
    ledger.counts["synthesised"] += len(made) + len(pairs)
    ledger.counts["synthesis_refused"] += len(work.tally.refused)
    work.report()
    return [*made, *pairs]


@dataclass(slots=True)
class _Work:
    """One synthesis: who is asked, by what rules, and what became of it. Each step is a method."""

    section: SynthesisSection
    teacher: Teacher
    base: Teacher | None
    reading: Reading
    progress: Progress
    tally: Yield

    def about(self, documents: Sequence[Document]) -> list[Conversation]:
        """Questions and answers about documents."""
        passages = [
            passage for passage in passages_of(documents) if not self._is_withheld(passage.clearance, passage.origin)
        ]
        asked = [(passage, share_out(self.section.kinds, self.section.questions, passage)) for passage in passages]
        asks = [ask_questions(passage, wanted, temperature=TEMPERATURE, seed=SEED) for passage, wanted in asked]
        replies = self.ask("questions", asks)
        drafts: list[Draft] = []
        for (passage, _), reply in zip(asked, replies, strict=True):
            drafts += self._drafts(passage, reply)
        sound = self._without_answerable(drafts, passages)
        self.tally.num_grounded += len(sound)
        return [draft.sample(self.teacher.name) for draft in sound]

    def _drafts(self, passage: Passage, reply: Reply) -> list[Draft]:
        where = str(passage.origin)
        items = self._items(reply, where)
        quotable = Quotable(passage.text)
        kept: list[Draft] = []
        for item in items:
            self.tally.num_items += 1
            found = check_item(item, passage, quotable, self.section.kinds, self.reading)
            if isinstance(found, Draft):
                opening = tokens_of(found.turns[0].question)
                others = (tokens_of(draft.turns[0].question) for draft in kept)
                if any(rouge_l(opening, other, at_least=SAME_QUESTION) >= SAME_QUESTION for other in others):
                    found = Fault("duplicate", {})
            if isinstance(found, Fault):
                self.tally.refuse(found, where=where, said=str(item))
            else:
                kept.append(found)
        return kept

    def _items(self, reply: Reply, where: str) -> list[dict[str, object]]:
        """The items of a reply, counted; none of a failed one."""
        if reply.finish in ("error", "undone"):
            return []
        items = parse_items(reply.text, is_cut=reply.finish == "length")
        if items is None:
            self.tally.refuse(Fault("not_json", {}), where=where, said=reply.text)
            return []
        self.tally.num_parsed += 1
        return items

    def _without_answerable(self, drafts: Sequence[Draft], passages: Sequence[Passage]) -> list[Draft]:
        """Unanswerable questions are asked again, with the likeliest passages of all documents."""
        doubtful = [number for number, draft in enumerate(drafts) if draft.kind == "unanswerable"]
        if not doubtful:
            return list(drafts)
        library = Library(passages)
        asked = [ask_whether_answered(drafts[number], library, seed=SEED) for number in doubtful]
        replies = self.ask("unanswerable", [ask for ask, _ in asked])
        refused: set[int] = set()
        for number, (_, shown), reply in zip(doubtful, asked, replies, strict=True):
            draft, fault = drafts[number], Fault("unchecked", {})
            if reply.finish == "stop":
                self.tally.num_parsed += 1
                found = fault_of_unanswerable(reply.text, draft, shown, self.reading)
                if found is None:
                    continue
                fault = found
            refused.add(number)
            self.tally.refuse(fault, where=str(draft.passage.origin), said=draft.turns[0].question)
        return [draft for number, draft in enumerate(drafts) if number not in refused]

    def _is_withheld(self, clearance: Clearance, origin: Origin) -> bool:
        """What was graded and masked, but is of a level that may not go to this teacher, is left out and counted. What
        was not masked at all is no such case: the request itself is refused (`check_cleared`)."""
        is_open = not self.teacher.is_external or clearance.level in self.teacher.levels
        if is_open or not clearance.is_masked or clearance.level is None:
            return False
        self.tally.refuse(Fault("withheld", {"given": clearance.level}), where=str(origin))
        return True

    def tasks(self, seeds: Sequence[Sample]) -> list[Conversation]:
        """New tasks from examples, until enough are made or rounds bring nothing more."""
        language = self._task_language(seeds)
        shown = [seed for seed in seeds if not self._is_withheld(Clearance.of(seed), seed.origin)]
        pool = Pool(seed_tasks(shown, language))
        idle = number = 0
        while len(pool.made) < self.section.instructions and idle < PATIENCE:
            asks = self._task_asks(pool, language, number)
            replies = self.ask("instructions", asks)
            before = len(pool.made)
            for ask, reply in zip(asks, replies, strict=True):
                self._take_tasks(pool, language, ask, reply)
            number += 1
            gained = len(pool.made) - before
            idle = 0 if gained > len(asks) // 2 else idle + 1
            if any(reply.finish == "undone" for reply in replies):
                break
        made = pool.made[: self.section.instructions]
        return [sample_of(task, line, self.teacher.name) for line, task in enumerate(made, start=1)]

    def _task_asks(self, pool: Pool, language: Language, number: int) -> list[Ask]:
        """One round: as many requests as what is missing takes, a few at most."""
        missing = self.section.instructions - len(pool.made)
        num_asks = min(PER_ROUND, -(-missing // PER_REQUEST))
        per_ask = min(PER_REQUEST, max(3, missing))
        return [
            ask_tasks(
                pool, language, self.section.topic, per_ask,
                temperature=TEMPERATURE, seed=f"{SEED}:{number}:{index}",
            )
            for index in range(num_asks)
        ]  # fmt: skip

    def _take_tasks(self, pool: Pool, language: Language, ask: Ask, reply: Reply) -> None:
        for item in self._items(reply, "self-instruct"):
            if len(pool.made) >= self.section.instructions:
                return  # more than was asked for
            self.tally.num_items += 1
            task = check_task(item, pool, language, ask.clearance, self.reading)
            if isinstance(task, Fault):
                self.tally.refuse(task, where="self-instruct", said=str(item))
            else:
                pool.add(task)

    def _task_language(self, seeds: Sequence[Sample]) -> Language:
        """The topic's language, else the examples', else Chinese."""
        told = self.section.topic or " ".join(
            seed.messages[0].content for seed in seeds[:20] if isinstance(seed, Conversation)
        )
        return "en" if language_of(told) == "en" else "zh"

    def judged(self, samples: Sequence[Conversation]) -> list[Conversation]:
        """Samples with at least `min_quality` points of the judge, who asks twice and a third time where it wavers."""
        cases = [self._case(sample) for sample in samples]
        points: list[list[int | None]] = [[] for _ in cases]
        open_cases = list(range(len(cases)))
        for number in range(3):
            asks = [ask_judge(cases[case], number, seed=SEED) for case in open_cases]
            replies = self.ask("quality", asks)
            for case, reply in zip(open_cases, replies, strict=True):
                points[case].append(points_of(reply.text, cases[case]) if reply.finish == "stop" else None)
                self.tally.num_parsed += points[case][-1] is not None
            open_cases = [case for case in open_cases if number == 0 or disagree(points[case])]
        kept = []
        for case, sample in enumerate(samples):
            value = verdict(points[case])
            if value is None or value < self.section.min_quality:
                fault = Fault("unjudged", {}) if value is None else Fault("low_quality", {"given": value})
                self.tally.refuse(fault, where=str(sample.origin), said=sample.messages[0].content)
                continue
            scores = {"judge": value, "judge_passes": [given for given in points[case] if given is not None]}
            kept.append(replace(sample, tags=sample.tags | {"scores": scores}))
        return kept

    def _case(self, sample: Conversation) -> Judged:
        passage = "\n".join(cited["text"] for cited in sample.tags.get("evidence", ()))
        return Judged(sample, passage, Clearance.of(sample))

    def reworded(self, samples: Sequence[Conversation]) -> list[Conversation]:
        """Other wordings of the questions that open them."""
        num = self.section.paraphrases
        asks = [
            ask_wordings(
                sample.messages[0].content, num, Clearance.of(sample),
                temperature=TEMPERATURE, seed=SEED,
            )
            for sample in samples
        ]  # fmt: skip
        made: list[Conversation] = []
        for sample, reply in zip(samples, self.ask("paraphrases", asks), strict=True):
            question, where = sample.messages[0].content, str(sample.origin)
            if reply.finish in ("error", "undone"):
                continue
            wordings = read_wordings(reply.text)
            if wordings is None:
                self.tally.refuse(Fault("not_json", {}), where=where, said=reply.text)
                continue
            self.tally.num_parsed += 1
            sound, refused = check_wordings(question, wordings, num, self.reading)
            self.tally.num_items += len(sound) + len(refused)
            for wording, fault in refused:
                self.tally.refuse(fault, where=where, said=wording)
            made += [with_question(sample, wording) for wording in sound]
        return made

    def pairs(self, samples: Sequence[Conversation]) -> list[Preference]:
        """The checked answer against the base's own, where they disagree."""
        assert self.base is not None, "who wants pairs brings the base"
        asks = [ask_base(sample) for sample in samples]
        made: list[Preference] = []
        for sample, reply in zip(samples, self.ask("preferences", asks, self.base), strict=True):
            if reply.finish in ("error", "undone"):
                continue
            self.tally.num_parsed += 1
            self.tally.num_items += 1
            pair = pair_of(sample, reply, self.reading)
            if isinstance(pair, Fault):
                self.tally.refuse(pair, where=str(sample.origin), said=reply.text)
            else:
                made.append(pair)
        return made

    def ask(self, step: str, asks: Sequence[Ask], teacher: Teacher | None = None) -> list[Reply]:
        """The replies of one step, counted; nothing is sent before everything was found to be cleared."""
        asked = teacher or self.teacher
        check_cleared(asks, asked)
        self.progress.start(say(f"synthesis.asking_{step}", teacher=asked.name), len(asks))
        replies = asked.answer(asks, watch=self.progress.advance)
        self.progress.finish()
        self.tally.hear(step, replies)
        if replies and all(reply.finish == "error" for reply in replies):
            raise EngineError("synthesis.all_failed", where=asked.name, count=len(replies), said=replies[0].error)
        return replies

    def report(self) -> None:
        """The yield in a sentence or two."""
        tally = self.tally
        self.progress.note(
            say("synthesis.yield", asked=tally.num_asked, items=tally.num_items, kept=tally.num_kept,
                refused=len(tally.refused), failed=tally.num_failed)
        )  # fmt: skip
        for error, count in tally.errors.most_common(2):
            self.progress.note(say("synthesis.failed", count=count, said=error))
        if tally.num_undone:
            steps = ", ".join(f"{step} {count}" for step, count in sorted(tally.undone.items()))
            self.progress.note(say("synthesis.undone", count=tally.num_undone, steps=steps))
