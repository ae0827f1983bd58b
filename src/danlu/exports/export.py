"""The contract of the shelf, and the act: write > reload > compare > seal. What does not end well leaves nothing.

An Export writes one kind of folder and proves it. `export` gives it a fresh folder, adds card and manifest, and puts
the whole in its place at once. Which probes, facts and parents are handed in; a card invents nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from danlu.core.errors import ExportError
from danlu.core.files import free_bytes, replacing_folder, sha256_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.contract import Contract
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports.card import write_card
from danlu.exports.parity import Check, Difference, Record, answer_log_probs, record, sum_up
from danlu.exports.speech import golden_prompts
from danlu.model.quantizers.quantizer import Quantize
from danlu.run.artifact import NAME, Canary, Manifest

MAX_CANARIES = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Facts:
    """What an artefact says of itself. `base` = {name, revision, digest}; `parents` = digests by role (dataset,
    checkpoint, …); `card` = what the card tells: data counts, evaluation, licence, credits (see card.py)."""

    name: str
    base: dict[str, Any]
    parents: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quiz:
    """A held-out question and the judge of an answer's text."""

    question: Question
    is_right: Callable[[str], bool]


class Once:
    """What all exports of one engine, with the same probes and quiz, would find alike: made when first asked for. What
    is read from files that an export wrote has no place here."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being exported: the trained engine, its contract, and what it said to the probes. `quiz` is asked of
    every program that reads what was written; `through` names codes when the update goes into what they stand for."""

    engine: NativeEngine
    contract: Contract
    facts: Facts
    probes: tuple[Question, ...]
    records: tuple[Record, ...]
    max_new_tokens: int
    quiz: tuple[Quiz, ...] = ()
    through: Quantize = "none"
    once: Once = field(default_factory=Once)
    texts: Callable[[], Sequence[Sequence[int]]] = tuple
    """Token ids of what was trained on, for exports that round on texts. Never what is tested on."""
    progress: Progress = field(default_factory=Silent)
    """Hears what a proof is at, for it is most of an export's time."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Checks, and the noise that was measured, against which canaries are replayed."""

    checks: list[Check]
    noise: Difference
    facts: dict[str, Any] = field(default_factory=dict)


class Export(Protocol):
    """One kind of folder. `kind` is its name on the shelf."""

    @property
    def kind(self) -> str: ...

    def size_bytes(self, subject: Subject) -> int:
        """About how much disk it needs."""
        ...

    def write(self, subject: Subject, folder: Path) -> None:
        """Everything but card and manifest, into an empty folder."""
        ...

    def prove(self, subject: Subject, folder: Path) -> Proof:
        """Read the folder back by every reader there is and compare it with the trained model."""
        ...


def export(
    kind: Export,
    engine: NativeEngine,
    folder: Path,
    *,
    contract: Contract,
    facts: Facts,
    probes: Sequence[Sequence[Message]] = (),
    quiz: Sequence[Quiz] = (),
    through: Quantize = "none",
    merging: dict[str, Any] | None = None,
    max_new_tokens: int = 24,
    replace: bool = False,
    further: Callable[[Subject], list[Check]] | None = None,
    once: Once | None = None,
    texts: Callable[[], Sequence[Sequence[int]]] = tuple,
    progress: Progress | None = None,
) -> Manifest:
    """Write `engine`'s model as an artefact. The verdict stands in the manifest's `parity`: a folder that failed is
    kept for inspection and refused by `verify`. An artefact already there is kept if it is the same, and replaced
    only if told so. Domain probes are added to the contract's golden conversations. `further` looks at what only the
    caller can see, and its checks count like the export's own. Who makes several exports of one engine hands the same
    `once` to each."""
    progress = progress or Silent()
    check_base(engine, facts)
    progress.start(say("export.exporting", kind=kind.kind), 4)
    questions = (*golden_prompts(contract, engine), *(Question(tuple(messages)) for messages in probes))
    prompts = [engine.prompt_ids(question) for question in questions]
    shared = once or Once()
    records = shared("records", lambda: tuple(record(engine, prompts, max_new_tokens=max_new_tokens)))
    subject = Subject(
        engine, contract, facts, questions, records, max_new_tokens, tuple(quiz), through, shared, texts, progress
    )
    progress.advance()
    check_space(kind.size_bytes(subject), folder)
    inputs = _inputs(kind, subject)
    if (standing := _standing(folder, inputs, replace)) is not None:
        progress.finish()
        return standing
    with replacing_folder(folder) as fresh:
        kind.write(subject, fresh)
        progress.advance()
        proof = kind.prove(subject, fresh)
        if further is not None:
            proof.checks.extend(further(subject))
        progress.advance()
        manifest = _manifest(kind, subject, proof, inputs, merging)
        write_card(fresh, manifest, facts.card)
        manifest = manifest.write(fresh)
    progress.advance()
    progress.finish()
    return manifest


def _manifest(kind: Export, subject: Subject, proof: Proof, inputs: str, merging: dict[str, Any] | None) -> Manifest:
    facts = subject.facts
    return Manifest(
        kind=kind.kind,
        name=facts.name,
        base=dict(facts.base),
        parents=dict(facts.parents) | {"inputs": inputs},
        contract=subject.contract.to_json(),
        canaries=_canaries(subject),
        parity=_parity(subject, proof) | ({"merging": merging} if merging else {}),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def check_base(engine: NativeEngine, facts: Facts) -> None:
    """The weights in memory are those that the run was trained on: an adapter fits one base only."""
    given, expected = engine.model.digest, str(facts.base.get("digest"))
    if given != expected:
        where = str(facts.base.get("name"))
        raise ExportError("export.other_base", where=where, given=given[:16], expected=expected[:16])


def check_space(num_bytes: int, folder: Path) -> None:
    free = free_bytes(folder)
    if free < num_bytes * 1.1:
        raise ExportError("export.no_space", where=str(folder), given=free, expected=int(num_bytes * 1.1))


def _inputs(kind: Export, subject: Subject) -> str:
    """What decides an artefact's weights and files, before it is written."""
    facts = subject.facts
    told = [facts.name, facts.base, facts.parents, facts.card]
    probed = [[found.prompt_ids for found in subject.records], subject.max_new_tokens]
    return sha256_json([kind.kind, subject.engine.digest, subject.contract.digest, told, probed, subject.through])


def _standing(folder: Path, inputs: str, replace: bool) -> Manifest | None:
    """The artefact in `folder` if it is the one to be made; ExportError if something else would be overwritten."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / NAME).is_file():
        raise ExportError("export.foreign_folder", where=str(folder), given=str(folder))
    if replace:
        return None
    standing = Manifest.read(folder)
    if standing.parents.get("inputs") != inputs or standing.parity["verdict"] != "pass":
        raise ExportError(
            "export.other_artifact", where=str(folder), name=standing.name, kind=standing.kind,
            digest=standing.digest[:16], created=standing.created, verdict=standing.parity["verdict"],
        )  # fmt: skip
    standing.check_files(folder)
    return standing


def _parity(subject: Subject, proof: Proof) -> dict[str, Any]:
    """The manifest's `parity`: verdict, checks, noise, and how likely the canaries' answers are."""
    log_probs = [
        [round(value, 6) for value in answer_log_probs(found.prompt_ids, found.answer_ids, subject.engine)]
        for found in _chosen(subject)
    ]
    return sum_up(
        proof.checks,
        num_probes=len(subject.records),
        noise=asdict(proof.noise),
        living_dtype=str(subject.engine.model.dtype)[6:],
        canary_log_probs=log_probs,
        **proof.facts,
    )


def _chosen(subject: Subject) -> tuple[Record, ...]:
    """The canaries among the probes: those of the domain, which stand last, before the golden ones."""
    return subject.records[::-1][:MAX_CANARIES]


def _canaries(subject: Subject) -> tuple[Canary, ...]:
    """Probes with the answers the trained model gave."""
    encoder = subject.engine.encoder
    return tuple(
        Canary(
            encoder.tokenizer.decode(list(found.prompt_ids), skip_control=False),
            found.prompt_ids,
            encoder.answer_text(found.answer_ids),
            found.answer_ids,
        )
        for found in _chosen(subject)
    )
