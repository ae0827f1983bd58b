"""Forget a person or a value: where it was, what learnt from it, how to train without it, and the proof after.

Looked up by HMAC in what privacy put on record, and by the letters themselves in what a run holds readably: its
rows, its files, the text of packed tokens. The plan names no value: the list that new runs drop rows by holds HMACs.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DataError
from danlu.core.files import sha256_json, write_json
from danlu.data.dataset import Dataset
from danlu.data.flow.kept import open_kept, rows_gone
from danlu.data.flow.store import Store
from danlu.data.privacy.finding import canonical
from danlu.data.privacy.forgotten import Forgotten, macs_of, name_form
from danlu.data.privacy.keys import Keyring
from danlu.data.privacy.records import FOLDER, read_records
from danlu.data.privacy.sight import everything_of
from danlu.pipeline.audit import FORGET, check_outside, note_acts
from danlu.pipeline.base import open_base
from danlu.pipeline.furnace import STORE
from danlu.run.run import Run, list_runs

TEXT_FILES = (".json", ".jsonl", ".html", ".md", ".txt", ".csv", ".yaml")
REPLIES = ("replies", "replay")
"""Folders of the store with answers that are kept."""
_NUM_DIGITS = 5
"""A value with this many digits is also looked for without the gaps between them."""


@dataclass(slots=True)
class Trace:
    """What one run had to do with it. `samples`: the ids of rows, with `file:line` and what was done."""

    run: str
    folder: Path
    samples: list[dict[str, Any]] = field(default_factory=list)
    num_dropped: int = 0
    """Findings in rows that privacy dropped: they never reached a dataset."""
    sources: set[str] = field(default_factory=set)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Places where the value stands in readable form."""
    stands_on: str = ""
    """The affected run whose weights this one started from."""
    rows_gone: bool = False
    """Shards that held its rows were removed: what stood in them is not known."""
    num_unreadable: int = 0
    keys_gone: tuple[str, ...] = ()
    is_unprepared: bool = False
    """Its data were never finished: there is nothing to look through, and nothing is proven."""

    @property
    def is_affected(self) -> bool:
        return bool(self.samples or self.left or self.stands_on)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run, "samples": self.samples, "dropped": self.num_dropped,
             "datasets": self.datasets, "artifacts": self.artifacts,
            "left": self.left, "stands_on": self.stands_on, "unreadable": self.num_unreadable,
            "keys_gone": list(self.keys_gone), "rows_gone": self.rows_gone,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Search:
    """How much was looked through, so that "nothing found" says something."""

    num_records: int = 0
    num_texts: int = 0
    num_tokens: int = 0


def forget(
    values: Sequence[str], runs: Path, keys: Path, *, reason: str = "", actor: str | None = None
) -> dict[str, Any]:
    """Trace the values, write the list and the plan beside the runs, and enter it in the audit log.

    Returns the plan: {list, runs, sources, steps: [{run, overrides, command}]}.
    """
    keyring = _keyring(values, runs, keys)
    traces, _ = trace(values, runs, keyring)
    forgotten = _list_of(values, keyring)
    name = sha256_json(sorted(forgotten.macs))[:12]
    path = runs / FORGET / f"{name}.json"
    forgotten.write(path)
    affected = [one for one in traces if one.is_affected]
    plan = {
        "list": str(path),
        "runs": [one.to_json() for one in traces if one.is_affected or one.num_unreadable or one.rows_gone],
        "sources": sorted(set().union(*(one.sources for one in traces))),
        "steps": [_step(one, path, keyring) for one in affected],
        "num_runs": len(traces),
    }
    write_json(runs / FORGET / f"{name}.plan.json", plan)
    facts = {
        "list": sha256_json(forgotten.to_json()), "runs": [one.run for one in affected],
        "num_samples": len({row["sample"] for one in affected for row in one.samples}),
    }  # fmt: skip
    note_acts(runs).append("forget", facts, reason=reason, actor=actor)
    return plan


def verify_forgotten(
    values: Sequence[str], runs: Path, keys: Path, *, run: Run | None = None, reason: str = ""
) -> dict[str, Any]:
    """Whether nothing is left in one run, or in all under `runs`. Rows that were dropped do not count as left."""
    keyring = _keyring(values, runs, keys)
    folders = [run.folder] if run is not None else None
    traces, search = trace(values, runs, keyring, folders=folders)
    left = {}
    for one in traces:
        places = [f"{row['sample']} ({row['type']})" for row in one.samples] + one.left
        places += [one.stands_on] if one.stands_on else []
        if places:
            left[one.run] = places
    damaged: list[str] = []
    if run is None:
        shards, damaged = _shards_left(runs, values)
        if shared := [*shards, *_replies_left(runs, values)]:
            left[STORE] = shared
    verdict = {
        "is_clean": not (left or damaged)
        and not any(one.num_unreadable or one.rows_gone or one.is_unprepared for one in traces),
        "left": left,
        "damaged": damaged,
        "unprepared": [one.run for one in traces if one.is_unprepared],
        "rows_gone": [one.run for one in traces if one.rows_gone],
        "unreadable": {one.run: list(one.keys_gone) for one in traces if one.num_unreadable},
        "runs": [one.run for one in traces],
        "searched": {"records": search.num_records, "texts": search.num_texts, "tokens": search.num_tokens},
    }
    facts = {"list": sha256_json(_list_of(values, keyring).to_json())} | {
        name: verdict[name] for name in ("is_clean", "runs", "searched")
    }
    note_acts(runs).append("forget-verify", facts, reason=reason)
    return verdict


def trace(
    values: Sequence[str], runs: Path, keyring: Keyring, *, folders: Sequence[Path] | None = None
) -> tuple[list[Trace], Search]:
    """What every run had to do with the values, runs that stand on affected ones included."""
    found: list[Trace] = []
    search = Search()
    for folder in sorted(folders if folders is not None else list_runs(runs)):
        run = Run.open(folder)
        one = Trace(folder.name, folder, rows_gone=rows_gone(run.path("dataset"), Store(folder.parent / STORE)))
        one.is_unprepared = run.outcome("prepare") is None
        search = _records(run, values, keyring, one, search)
        search = _texts(run, values, one, search)
        _datasets(run, one)
        one.artifacts = _artifacts(folder)
        found.append(one)
    _spread(found)
    return found, search


def _keyring(values: Sequence[str], runs: Path, keys: Path) -> Keyring:
    if not any(value.strip() for value in values):
        raise DataError("audit.nothing_to_forget")
    check_outside(keys, runs)
    return Keyring.open(keys, create=False)


def _list_of(values: Sequence[str], keyring: Keyring) -> Forgotten:
    macs = frozenset(mac for value in values for mac in macs_of(value, keyring))
    named = [value for value in values if "@" not in value and not any(map(str.isdigit, value))]
    names = ((keyring.mac("name", value), *name_form(value)) for value in named)
    return Forgotten(keyring.current, macs, tuple(name for name in names if name[2] > 1))


def _records(run: Run, values: Sequence[str], keyring: Keyring, one: Trace, search: Search) -> Search:
    """Rows by HMAC, then everything made of them."""
    macs = {mac for key in keyring.ids for value in values for mac in macs_of(value, keyring, key)}
    derived: list[tuple[str, list[str]]] = []
    gone: set[str] = set()
    count = 0
    for record in read_records(run.path(*FOLDER)):
        count += 1
        if record["type"] == "derived":
            derived.append((record["sample"], record["parents"]))
        elif record["mac"] in macs:
            if record["action"] == "drop":
                one.num_dropped += 1
                continue
            one.sources.add(f"{record['file']}:{record['line']}")
            one.samples.append({name: record[name] for name in ("sample", "file", "line", "type", "action")})
        elif not keyring.has(record["key"]):
            one.num_unreadable += 1
            gone.add(record["key"])
    one.keys_gone = tuple(sorted(gone))
    # rows made of a row whose value was masked did not see it; those of a kept one did
    seen = {row["sample"] for row in one.samples if row["action"] == "keep"}
    grew = True
    while grew:
        grew = False
        for sample, parents in derived:
            if sample not in seen and not seen.isdisjoint(parents):
                seen.add(sample)
                one.samples.append({"sample": sample, "type": "derived", "action": "keep"})
                grew = True
    return replace(search, num_records=search.num_records + count)


def _texts(run: Run, values: Sequence[str], one: Trace, search: Search) -> Search:
    """The letters themselves, in rows that were kept, in readable files, and in packed tokens."""
    forms = [_Form(value) for value in values]
    texts = tokens = 0
    for place, source, text in _readable(run):
        texts += 1
        if any(form.is_in(text) for form in forms):
            one.left.append(place)
            one.sources |= {source} - {""}
    for place, num_tokens, text in _packed(run):
        tokens += num_tokens
        if any(form.is_in(text) for form in forms):
            one.left.append(place)
    one.left = list(dict.fromkeys(one.left))
    return replace(search, num_texts=search.num_texts + texts, num_tokens=search.num_tokens + tokens)


class _Form:
    """A value as it may stand in a text: width and case aside, digits with gaps between them too."""

    def __init__(self, value: str) -> None:
        self.plain = _folded(value)
        self.digits = canonical("number", value) if sum(map(str.isdigit, value)) >= _NUM_DIGITS else ""

    def is_in(self, text: str) -> bool:
        return self.plain in _folded(text) or (bool(self.digits) and self.digits in canonical("number", text))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _readable(run: Run) -> Iterator[tuple[str, str, str]]:
    """(place, file:line it was read at, text) of every row the run kept and every text file in its folder."""
    kept = open_kept(run.path("dataset"), Store(run.folder.parent / STORE))
    if kept is not None:
        for _, row in kept.rows():
            if row.sample is not None:
                yield f"row {row.id}", str(row.origin), "\n".join(everything_of(row.sample))
    for path in sorted(run.folder.rglob("*")):
        if path.suffix in TEXT_FILES and path.is_file() and FOLDER[0] not in path.relative_to(run.folder).parts:
            yield path.relative_to(run.folder).as_posix(), "", _unescaped(path)


def _shards_left(runs: Path, values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Shards of the store that still hold a value, and those that cannot be read, which may; those of no run are
    removed by the next prepare."""
    forms, store = [_Form(value) for value in values], Store(runs / STORE)
    found: list[str] = []
    damaged: list[str] = []
    for place in sorted((runs / STORE).glob("shards/*/*")):
        shard = store.find(place.name)
        if shard is None:
            damaged.append(f"shards/{place.name[:12]}")
            continue
        rows = (row for piece in shard.pieces for _, row in piece.rows())
        texts = ("\n".join(everything_of(row.sample)) for row in rows if row.sample is not None)
        if any(form.is_in(text) for text in texts for form in forms):
            found.append(f"shards/{place.name[:12]}")
    return found, damaged


def _replies_left(runs: Path, values: Sequence[str]) -> list[str]:
    """What teachers and bases answered, kept for any run that asks the same again."""
    forms, store = [_Form(value) for value in values], runs / STORE
    files = (path for folder in REPLIES for path in sorted((store / folder).rglob("*")) if path.is_file())
    return [path.relative_to(store).as_posix() for path in files if _holds(path, forms)]


def _holds(path: Path, forms: Sequence[_Form]) -> bool:
    text = _unescaped(path)
    return any(form.is_in(text) for form in forms)


def _unescaped(path: Path) -> str:
    """A file's text; JSON with its escapes undone."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix in (".json", ".jsonl") and "\\" in text:
        parts = text.splitlines() if path.suffix == ".jsonl" else [text]
        return "\n".join(_strings(part) for part in parts)
    return text


def _strings(text: str) -> str:
    try:
        return "\n".join(_leaves(orjson.loads(text)))
    except orjson.JSONDecodeError:
        return text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield str(value)


def _packed(run: Run) -> Iterator[tuple[str, int, str]]:
    """(place, tokens, text) of every item of every packed dataset of the run."""
    folders = [path.parent for path in sorted(run.path("dataset").glob("*/card.json"))]
    if not folders:
        return
    tokenizer = open_base(run.recipe.model).tokenizer
    for folder in folders:
        dataset = Dataset.open(folder, verify=False)
        for name in dataset.card.parts:
            part = dataset.part(name)
            for index in range(len(part)):
                for tokens in part[index]:
                    place = f"dataset/{folder.name}/{name}[{index}]"
                    yield place, len(tokens), tokenizer.decode(tokens.ids.tolist(), skip_control=False)


def _datasets(run: Run, one: Trace) -> None:
    """Which datasets hold the rows, and how many of them."""
    wanted = {row["sample"] for row in one.samples}
    for card in sorted(run.path("dataset").glob("*/card.json")):
        dataset = Dataset.open(card.parent, verify=False)
        rows = [row.get("sample") for name in dataset.card.parts for row in dataset.part(name).rows]
        count = sum(row in wanted for row in rows)
        if count:
            one.datasets.append({"stage": card.parent.name, "digest": dataset.digest, "rows": count})


def _artifacts(folder: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted(folder.glob("artifacts/*/artifact.json")):
        found.append({"kind": path.parent.name, "digest": str(orjson.loads(path.read_bytes()).get("digest", ""))})
    found += [{"kind": f"checkpoints/{path.name}", "digest": ""} for path in sorted(folder.glob("checkpoints/*"))]
    return found


def _spread(traces: list[Trace]) -> None:
    """A run whose base is another run's artefact has learnt what that one learnt."""
    grew = True
    while grew:
        grew = False
        affected = [one for one in traces if one.is_affected]
        for one in traces:
            base = Path(Run.open(one.folder).recipe.model.base)
            parent = next((p for p in affected if p is not one and _is_below(base, p.folder)), None)
            if parent is not None and not one.stands_on:
                one.stands_on, grew = parent.run, True


def _is_below(path: Path, folder: Path) -> bool:
    return path.exists() and path.resolve().is_relative_to(folder.resolve())


def _step(one: Trace, path: Path, keyring: Keyring) -> dict[str, Any]:
    """How to train a run anew. Where its recipe had a list already, a list of its own holds both: other runs need not
    leave out what this one does."""
    run = Run.open(one.folder)
    before = run.recipe.data.privacy.forget
    if before is not None and Path(before).is_file():
        both = Forgotten.read(path).with_all(Forgotten.read(Path(before)).under_current(keyring))
        path = path.with_name(f"{sha256_json(sorted(both.macs))[:12]}.json")
        both.write(path)
    overrides = [f"data.privacy.forget={path}"]
    command = shlex.join(["danlu", "run", str(one.folder / "recipe.json"), *overrides])
    return {"run": one.run, "overrides": overrides, "command": command, "after": one.stands_on}
