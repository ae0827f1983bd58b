"""augment: which text of a sample may be worded anew, which candidates are sound, and what the variants carry on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from danlu.core.errors import DataError
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.core.shelf import Shelf
from danlu.data.augment.augmenter import Augmenter, Variable
from danlu.data.identity import sample_id
from danlu.data.language import language_of
from danlu.data.sample import Conversation, Label, Message, Preference, Sample, replace
from danlu.data.synthesis.prompts import messages, told
from danlu.data.synthesis.replies import parse_object, text_at
from danlu.data.synthesis.teacher import Ask, Clearance, Reply, Teacher, check_cleared
from danlu.data.synthesis.wording import fault_of_wording
from danlu.data.synthesis.words import Reading
from danlu.recipe.synthesis import AugmentSection

MAX_CLASSES = 40
_AT_ONCE = 10_000
"""Samples that are held at a time; a teacher is asked about so many together."""


@dataclass(slots=True)
class _Bench:
    """One augmentation: its rules, its teacher, and what became of the candidates."""

    reading: Reading
    teacher: Teacher | None
    progress: Progress
    num_made: int = 0
    num_kept: int = 0

    def asking(self, asks: Sequence[Ask]) -> list[Reply]:
        assert self.teacher is not None, "methods that ask were given a teacher"
        check_cleared(asks, self.teacher)
        self.progress.start(say("synthesis.asking_augment", teacher=self.teacher.name), len(asks))
        replies = self.teacher.answer(asks, watch=self.progress.advance)
        self.progress.finish()
        return replies


def vary_all(
    samples: Iterable[Sample], section: AugmentSection, teacher: Teacher | None, shelf: Shelf[type[Augmenter]], *,
    reading: Reading, progress: Progress | None = None,
) -> list[Sample]:  # fmt: skip
    """Sound variants of all methods, in the order of methods and samples. The samples are gone through once for each
    method and once before, some at a time."""
    bench = _Bench(reading, teacher, progress or Silent())
    known: set[bytes] = set()
    classes: set[str] = set()
    for sample in samples if section.methods else ():
        if isinstance(sample, Label):
            classes.add(sample.label)
        if (variable := variable_of(sample, "")) is not None:
            known.add(_digest_of(reading.fold(variable.text)))
    made: list[Sample] = []
    for name in section.methods:
        method = shelf.load(name, where="data.augment.methods")()
        if method.needs_teacher and teacher is None:
            raise DataError("synthesis.needs_teacher", where="data.augment.methods", method=name)
        variants: list[Sample] = []
        for some in _in_turns(samples):
            texts = [(sample, variable_of(sample, name)) for sample in some]
            shown = [(sample, variable) for sample, variable in texts if variable is not None and _may(bench, variable)]
            if shown:
                asked = [variable for _, variable in shown]
                candidates = method.vary(asked, section.copies, section.strength, bench.asking)
                variants += _sound(bench, shown, candidates, section.copies, name, known)
        made += _of_one_label(bench, variants, classes) if method.needs_teacher else variants
    bench.num_kept = len(made)
    if section.methods:
        counts = Counter(str(sample.tags["augment"]) for sample in made)
        told_methods = ", ".join(f"{name} {counts[name]}" for name in section.methods)
        bench.progress.note(say("synthesis.augmented", kept=len(made), made=bench.num_made, methods=told_methods))
    return made


def _in_turns(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    waiting = iter(samples)
    while some := list(islice(waiting, _AT_ONCE)):
        yield some


def _digest_of(folded: tuple[str, ...]) -> bytes:
    """For a text that was seen: much less than its words."""
    return blake2b("\x00".join(folded).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def variable_of(sample: Sample, method: str) -> Variable | None:
    """What may be worded anew: what a user asks first, or the text of a Label; None where there is nothing."""
    clearance = Clearance.of(sample)
    seed = f"{method}:{sample_id(sample)}"
    if isinstance(sample, Label):
        return Variable(sample.text, sample.label, clearance, False, seed)
    if not isinstance(sample, Conversation | Preference):
        return None
    turns = sample.messages if isinstance(sample, Conversation) else (*sample.prompt, *sample.chosen)
    asked = next((turn for turn in turns if turn.role == "user"), None)
    answers = "\n".join(turn.content for turn in turns if turn.role == "assistant")
    return Variable(asked.content, answers, clearance, True, seed) if asked is not None else None


def _may(bench: _Bench, variable: Variable) -> bool:
    """Masked rows of a level that may not go to this teacher are not varied; unmasked ones are refused as an error."""
    teacher, shown = bench.teacher, variable.clearance
    if teacher is None or not teacher.is_external or shown.level is None or not shown.is_masked:
        return True
    return shown.level in teacher.levels


def _sound(
    bench: _Bench,
    shown: Sequence[tuple[Sample, Variable]],
    candidates: Sequence[Sequence[str]],
    copies: int,
    name: str,
    known: set[bytes],
) -> list[Sample]:
    """The candidates that say the same as what they stand for, and that nobody said yet."""
    made: list[Sample] = []
    for (sample, variable), texts in zip(shown, candidates, strict=True):
        num = 0
        for text in texts:
            bench.num_made += 1
            folded = _digest_of(bench.reading.fold(text))
            if num == copies or folded in known or fault_of_wording(variable.text, text, bench.reading):
                continue
            known.add(folded)
            made.append(variant(sample, text, name))
            num += 1
    return made


def variant(sample: Sample, text: str, name: str) -> Sample:
    """The sample with this text in the place of what it asks; answers, label, group and level stay."""
    tags = sample.tags | {"made_by": "augment", "augment": name, "parents": [sample_id(sample)]}
    if isinstance(sample, Label):
        return replace(sample, text=text, tags=tags)
    assert isinstance(sample, Conversation | Preference), "only these hold what a user asks"
    if isinstance(sample, Preference):
        return replace(sample, prompt=_reworded(sample.prompt, text), tags=tags)
    return replace(sample, messages=_reworded(sample.messages, text), tags=tags)


def _reworded(turns: Sequence[Message], text: str) -> tuple[Message, ...]:
    first = next(place for place, turn in enumerate(turns) if turn.role == "user")
    return (*turns[:first], replace(turns[first], content=text), *turns[first + 1 :])


def _of_one_label(bench: _Bench, variants: Sequence[Sample], known: Collection[str]) -> list[Sample]:
    """A Label's variants are classified by the teacher; what it would label otherwise goes."""
    classes = sorted(known)
    doubtful = [sample for sample in variants if isinstance(sample, Label)]
    if not doubtful or not 1 < len(classes) <= MAX_CLASSES:
        return list(variants)
    asks = [_ask_label(sample, classes) for sample in doubtful]
    wrong: set[str] = set()
    for sample, reply in zip(doubtful, bench.asking(asks), strict=True):
        said = parse_object(reply.text)
        given = text_at(said, "label") if said else reply.text.strip()
        if given.casefold() != sample.label.casefold():
            wrong.add(sample_id(sample))
    return [sample for sample in variants if sample_id(sample) not in wrong]


def _ask_label(sample: Label, classes: Sequence[str]) -> Ask:
    language = language_of(sample.text)
    user = told(language, "classify_asked", labels=" / ".join(classes), text=sample.text)
    return Ask(messages(told(language, "classify"), user), Clearance.of(sample), 60)
