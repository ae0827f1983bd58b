"""`danlu audit` and `danlu forget`: the log, the keys behind the records, and who has to be forgotten."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import listed, say
from danlu.pipeline.audit import DEFAULT_KEYS, check_acts, log_of, note_acts, rotate_keys
from danlu.pipeline.forget import forget, verify_forgotten
from danlu.pipeline.provenance import changed_manifests
from danlu.run.audit import Verdict, read_heads, write_heads
from danlu.run.run import Run, list_runs
from danlu.serving import chains
from danlu.serving.chains import Chain
from danlu.serving.control import action_now

JOURNALS = ("serving", "journal")
_MARK = "serving/journal/"
"""What stands before a journal's name in an anchor file."""
_SHOWN = 40
_BRIEF = 24
_DIGEST = re.compile("[0-9a-f]{16,}")


def verify(runs: Path, anchors: Path | None, voice: Voice) -> bool:
    """Print what is wrong with the log, line by line, with the records of finished acts and with the manifests of the
    runs; whether all of it can be trusted. RunError where there is nothing to look at."""
    log = log_of(runs)
    verdict = log.verify(anchors)
    verdict = replace(verdict, problems=(*verdict.problems, *check_acts(runs)))
    if not verdict.num_entries and verdict.is_whole and not runs.joinpath(*JOURNALS).is_dir():
        raise RunError("audit.empty", where=str(log.path))
    for problem in verdict.problems:
        voice.say(say(f"audit.{problem.what}", line=problem.line, **problem.values), "red")
    for torn in verdict.torn:
        voice.say(say(f"audit.{torn.what}", line=torn.line), "yellow")
    changed = [error for folder in list_runs(runs) for error in changed_manifests(Run.open(folder))]
    for error in changed:
        voice.say(error.text, "red")
    journals = chains.verify(runs.joinpath(*JOURNALS), _pins(anchors))
    flaws = _tell_journals(journals, voice)
    is_whole = verdict.is_whole and not changed and not flaws
    if is_whole:
        voice.say(say("audit.verified", count=verdict.num_entries, anchors=verdict.num_anchors), "green")
    else:
        voice.fail(say("audit.verify_failed", count=len(verdict.problems) + len(changed) + flaws))
    manifests = [error.to_json() for error in changed]
    told = {"is_whole": is_whole, "manifests": manifests, "journals": [chains.to_json(one) for one in journals]}
    voice.result(_verdict_json(verdict) | told)
    return is_whole


def _tell_journals(journals: Sequence[Chain], voice: Voice) -> int:
    """What is wrong with the journals of the serving side; how much that is."""
    for chain in journals:
        for flaw in chain.flaws:
            voice.say(say(f"keys.journal_{flaw.what}", journal=flaw.journal, line=flaw.line, n=flaw.n), "red")
        if chain.is_torn:
            voice.say(say("keys.journal_torn", journal=chain.journal), "yellow")
    if journals:
        num_lines = sum(chain.num_lines for chain in journals)
        voice.say(say("keys.journals_verified", count=len(journals), lines=num_lines))
    return len(chains.flaws_of(journals))


def _pins(anchors: Path | None) -> dict[str, dict[int, str]]:
    """Heads of journals in an anchor file, by journal."""
    pins: dict[str, dict[int, str]] = {}
    for _, log, n, digest in read_heads(anchors) if anchors is not None else ():
        if log.startswith(_MARK):
            pins.setdefault(log.removeprefix(_MARK), {}).setdefault(n, digest)
    return pins


def _verdict_json(verdict: Verdict) -> dict[str, object]:
    told = [{"line": one.line, "what": one.what, **one.values} for one in verdict.problems]
    torn = [{"line": one.line, "what": one.what} for one in verdict.torn]
    return {"is_whole": verdict.is_whole, "entries": verdict.num_entries, "head": verdict.head, "problems": told,
            "torn": torn, "anchors": verdict.num_anchors}  # fmt: skip


def show(runs: Path, num: int, voice: Voice) -> None:
    """The last entries, oldest first."""
    entries = list(log_of(runs).entries())[-num:]
    voice.table(
        ["", *(say(f"audit.col_{name}") for name in ("time", "actor", "action", "object", "reason"))],
        [
            (e.n, e.time[:16].replace("T", " "), e.actor, action_now(e.action), _brief(e.object), e.reason)
            for e in entries
        ],
        num_whole=2,
    )
    voice.result([entry.to_json() for entry in entries])


def _brief(value: dict[str, object]) -> str:
    """What people know a thing by; digests are for `--json`, unless there is nothing else."""
    told = {name: str(inner) for name, inner in value.items() if not _DIGEST.fullmatch(str(inner))} or value
    return listed(
        str(inner)[:_SHOWN] if name == "run" else f"{name}: {str(inner)[:_BRIEF]}" for name, inner in told.items()
    )


def head(runs: Path, anchor: Path | None, voice: Voice) -> None:
    """Enter what runs have finished, tell the head, and write it elsewhere."""
    log = note_acts(runs)
    journals = list(chains.heads(runs.joinpath(*JOURNALS)))
    entry = log.head() if anchor is None else log.anchor(anchor)
    n, digest = (entry.n, entry.hash) if entry is not None else (0, "-")
    voice.say(say("audit.head", n=n, hash=digest))
    if anchor is not None:
        write_heads(anchor, [(_MARK + name, number, last) for name, number, last in journals])
        voice.say(say("audit.anchored", n=n, path=str(anchor)))
        if journals:
            voice.say(say("keys.journals_anchored", count=len(journals)))
    told = [{"journal": name, "n": number, "hash": head} for name, number, head in journals]
    voice.result({"n": n, "hash": digest, "anchor": str(anchor) if anchor else None, "journals": told})


def rotate(runs: Path, keys: Path | None, *, destroy: bool, reason: str, voice: Voice) -> bool:
    """Move findings to a new key; False when some could not be moved."""
    rotation = rotate_keys(keys or DEFAULT_KEYS, runs, destroy=destroy, reason=reason)
    for run, count in rotation.moved.items():
        voice.say(say("audit.rekeyed", run=run, count=count))
    for run, count in rotation.lost.items():
        voice.say(say("audit.rekey_lost", run=run, count=count, keys=listed(rotation.keys)), "yellow")
    voice.say(say("audit.rotated", key=rotation.key, count=sum(rotation.moved.values())), "green")
    if not destroy:
        voice.say(say("audit.rotated_kept"), "dim")
    voice.result(rotation.to_json())
    return not rotation.lost


def forget_values(values: Sequence[str], runs: Path, keys: Path | None, reason: str, voice: Voice) -> None:
    """Print where the values were and how to train without them."""
    plan = forget(values, runs, keys or DEFAULT_KEYS, reason=reason)
    for trace in plan["runs"]:
        if trace["rows_gone"]:
            voice.say(say("audit.forget_rows_gone", run=trace["run"]), "yellow")
        if trace["unreadable"]:
            voice.say(
                say("audit.forget_unreadable", run=trace["run"], count=trace["unreadable"],
                    keys=listed(trace["keys_gone"])), "yellow",
            )  # fmt: skip
    if not plan["steps"]:
        voice.say(say("audit.forget_none", count=plan["num_runs"]), "green")
    else:
        _tell_traces(plan, voice)
    voice.result(plan)


def _tell_traces(plan: dict[str, object], voice: Voice) -> None:
    runs, sources, steps = plan["runs"], plan["sources"], plan["steps"]
    assert isinstance(runs, list) and isinstance(sources, list) and isinstance(steps, list), "the plan's own lists"
    voice.say(say("audit.forget_samples", count=len({row["sample"] for run in runs for row in run["samples"]})), "bold")
    for run in runs:
        for line in _rows_of(run["samples"])[:_SHOWN]:
            voice.say(f"  {line}")
    voice.say(say("audit.forget_runs", count=len(steps)), "bold")
    for run in runs:
        told = [f"{one['stage']} ({one['rows']})" for one in run["datasets"]] + run["left"][:5]
        voice.say(f"  {run['run']}  {' · '.join(told)}{'  ← ' + run['stands_on'] if run['stands_on'] else ''}")
    artifacts = [(run["run"], one) for run in runs for one in run["artifacts"]]
    voice.say(say("audit.forget_artifacts", count=len(artifacts)), "bold")
    for name, one in artifacts:
        voice.say(f"  {name}/{one['kind']}  {one['digest'][:16]}")
    voice.say(say("audit.forget_list", path=plan["list"]), "bold")
    voice.say(say("audit.forget_sources"), "bold")
    for source in sources[:_SHOWN]:
        voice.say(f"  {source}")
    voice.say(say("audit.forget_command"), "bold")
    for step in steps:
        voice.say(f"  {step['command']}")


def _rows_of(findings: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each row, however much was found in it."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for one in findings:
        where = f"{one['file']}:{one['line']}" if "file" in one else ""
        rows.setdefault((one["sample"], where), Counter())[f"{one['type']} {one['action']}"] += 1
    lines = []
    for (sample, where), found in rows.items():
        told = listed(f"{what} × {num}" if num > 1 else what for what, num in found.items())
        lines.append(f"{sample}  {told}  {where}".rstrip())
    return lines


def verify_values(
    values: Sequence[str], runs: Path, keys: Path | None, run: Path | None, reason: str, voice: Voice
) -> bool:
    """Whether none of it is left; prints what is."""
    opened = Run.open(run) if run is not None else None
    verdict = verify_forgotten(values, runs, keys or DEFAULT_KEYS, run=opened, reason=reason)
    for name, places in verdict["left"].items():
        for place in places[:_SHOWN]:
            voice.say(say("audit.forget_left", where=name, what=place), "red")
    for place in verdict["damaged"][:_SHOWN]:
        voice.say(say("audit.forget_damaged", place=place), "yellow")
    for name in verdict["rows_gone"]:
        voice.say(say("audit.forget_rows_gone", run=name), "yellow")
    for name in verdict["unprepared"]:
        voice.say(say("audit.forget_unprepared", run=name), "yellow")
    for name, gone in verdict["unreadable"].items():
        voice.say(say("audit.forget_unreadable", run=name, count="?", keys=listed(gone)), "yellow")
    if verdict["is_clean"]:
        where = str(run) if run is not None else str(runs)
        voice.say(say("audit.forget_verified", run=where, **verdict["searched"]), "green")
    else:
        voice.fail(say("audit.forget_not_verified"))
    voice.result(verdict)
    return bool(verdict["is_clean"])
