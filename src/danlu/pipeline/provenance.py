"""What a prepared run leaves so that every sample can be traced: its rows, Merkle manifests of rows and datasets."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from danlu.core.errors import DataError, RunError
from danlu.core.files import read_json, sha256_file, sha256_json, write_json
from danlu.data.dataset import Dataset
from danlu.data.finding import find_files
from danlu.data.flow.kept import count_no_more, count_on, keep, shards_of
from danlu.data.flow.manifest import DATASET, ROWS, check_manifest, make_manifest
from danlu.data.flow.passing import Passing
from danlu.data.flow.store import Store
from danlu.data.privacy import write_records
from danlu.data.privacy.records import FOLDER as RECORDS
from danlu.pipeline.desk import Desk
from danlu.pipeline.furnace import Smelted, Sources
from danlu.recipe.recipe import Recipe
from danlu.run.lock import locked
from danlu.run.run import Run
from danlu.version import VERSION

MANIFEST = "manifest.json"
_PAUSE_S = 0.05
_TOLD_ELSEWHERE: dict[str, Any] = {
    **dict.fromkeys(("engine", "workers", "sources", "teacher", "validation", "privacy"), True),
    "cleaning": {"evaluation_sets"},
    "documents": {"ocr_command"},
    "synthesis": {"seeds"},
}
"""Keys of the chapter `data` that decide nothing, or hold paths to what the manifest of the rows names by content."""


def keep_rows(run: Run, smelted: Smelted) -> None:
    """Rows and verdicts, and what privacy put on record."""
    parts = smelted.parts
    columns: dict[str, npt.NDArray[Any]] = {
        "part": parts.part,
        "left_out": parts.verdicts.left_out,
        "flagged": parts.verdicts.flagged,
        "twin": parts.verdicts.twin.astype(np.int64),
    }
    keep(run.path("dataset"), parts.pieces, columns, parts.verdicts.wanted)
    shutil.rmtree(run.path(*RECORDS), ignore_errors=True)
    for number, piece in enumerate(parts.pieces):
        write_records(run.path(*RECORDS, f"{number:05}.jsonl"), [dict(record) for record in piece.records])


def write_manifests(
    run: Run, smelted: Smelted, sources: Sources, passing: Passing, desks: Sequence[Desk], account: dict[str, Any]
) -> str:
    """`dataset/manifest.json` of the rows and one in each dataset's folder; the id of the last stage's."""
    shards = [{name: value for name, value in shard.items() if name != "key"} for one in smelted.conveyed
              for shard in one.shards]  # fmt: skip
    rows = make_manifest(ROWS, {
        "danlu": VERSION,
        "inputs": [file.to_json() for plan in sources.plans for file in plan.files],
        "stages": passing.told(),
        "shards": shards,
        "made": [piece_digest(piece) for piece in smelted.made],
        "funnel": [passed.to_json() for passed in smelted.funnel],
        "rows": account["rows"],
        "reasons": account["reasons"],
        "flags": account["flags"],
    })  # fmt: skip
    write_json(run.path("dataset", MANIFEST), rows)
    name = ""
    for desk in desks:
        name = _dataset_manifest(run, desk, smelted, rows["id"])
    return name


def changed_manifests(run: Run) -> list[DataError]:
    """What is not as prepare wrote it: each manifest against its digests, a dataset's against its parent, the last
    one's id against the record of the act. [] for a run that was not prepared."""
    outcome = run.outcome("prepare")
    if outcome is None or "dataset_id" not in outcome:
        return []
    rows = run.path("dataset", MANIFEST)
    paths = [rows, *(run.path("dataset", stage, MANIFEST) for stage in outcome["stages"])]
    found: list[DataError] = []
    ids: dict[Path, str] = {}
    for path in paths:
        try:
            manifest = read_json(path)
            check_manifest(manifest, str(path))
            ids[path] = manifest["id"]
            if path != rows and ids.get(rows) not in (None, *manifest["parents"]):
                raise DataError("flow.manifest_changed", where=str(path), part="parents")
        except (OSError, orjson.JSONDecodeError):
            found.append(DataError("flow.manifest_unreadable", where=str(path)))
        except DataError as error:
            found.append(error)
    if not found and ids[paths[-1]] != outcome["dataset_id"]:
        found.append(DataError("flow.manifest_changed", where=str(paths[-1]), part="id"))
    return found


def piece_digest(piece: Any) -> str:
    """Of the ids of a piece that no shard holds."""
    return sha256_json([row.id for _, row in piece.rows()])


def _dataset_manifest(run: Run, desk: Desk, smelted: Smelted, rows: str) -> str:
    folder = run.path("dataset", desk.name)
    form = read_json(folder / "format.json")
    dataset = Dataset.open(folder, verify=False)
    manifest = make_manifest(DATASET, {
        "danlu": VERSION,
        "stage": {"method": desk.stage.method.model_dump(mode="json"), "context": desk.stage.training.context},
        "recipe": told_of(run.recipe),
        "split": smelted.parts.certificate.get("digest", ""),
        "level": smelted.parts.level(),
        "contract": dataset.card.contract_digest,
        "tokenizer": dataset.card.tokenizer_digest,
        "counts": {name: part["items"] for name, part in dataset.card.parts.items()},
        "outputs": {name: facts["sha256"] for name, facts in form["files"].items() if "/" in name},
        "digest": dataset.digest,
    }, [rows])  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return str(manifest["id"])


def told_of(recipe: Recipe) -> dict[str, Any]:
    """What of the chapter `data` decides an outcome. No path: a file is named by its digest, here or among the inputs
    and stages of the rows."""
    told = recipe.data.model_dump(mode="json", exclude=_TOLD_ELSEWHERE)
    for name in ("path", "prompts"):
        if given := told["replay"][name]:
            told["replay"][name] = [sha256_file(found.path) for found in find_files([Path(given)])]
    return told


@contextmanager
def counting_on(run: Run, store: Store, keys: Sequence[str]) -> Iterator[None]:
    """No other run prunes these shards while the block works, nor after it failed or was killed: the next try of this
    run finds them done."""
    folder = run.path("dataset")
    if keys:
        count_on(folder, keys)
        with _turn(store):  # who is pruning now has not seen it
            pass
    yield
    count_no_more(folder)


def prune(run: Run, store: Store) -> int:
    """Remove shards that no run beside this one, nor this one, counts on any more."""
    if not store.folder.is_dir():
        return 0
    with _turn(store):
        return store.prune({key for folder in run.folder.parent.glob("*/dataset") for key in shards_of(folder)})


@contextmanager
def _turn(store: Store) -> Iterator[None]:
    """One at a time, however long the others take."""
    store.folder.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as held:
            try:
                held.enter_context(locked(store.folder / ".lock"))
            except RunError:
                time.sleep(_PAUSE_S)
                continue
            yield
            return
