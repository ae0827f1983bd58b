"""`danlu serving`: a running server seen and changed, through its control socket."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.cli.voice import Voice
from danlu.core.errors import EngineError
from danlu.core.messages import current_language, listed, say
from danlu.pipeline.serve_targets import checked_name
from danlu.serving import control

FOLDER = "serving"
"""Of the runs' folder, where a server keeps its own."""


def show_status(runs: Path, voice: Voice) -> None:
    told = control.ask(runs / FOLDER, control.Status())
    _show_models(told, voice)
    for pool in told["pools"]:
        _show_pool(pool, voice)
    for spare in told["spares"]:
        voice.say(say("rollout.spare", pid=spare["pid"], megabytes=spare["memory_bytes"] // 2**20), "dim")
    _show_workers(told, voice)
    voice.result(told)


def switch(model: str, to: str, runs: Path, voice: Voice, *, reason: str) -> None:
    _do(control.Switch(model=model, to=_absolute(to), reason=reason), runs, voice)


def rollback(model: str, runs: Path, voice: Voice, *, reason: str) -> None:
    _do(control.Rollback(model=model, reason=reason), runs, voice)


def split(model: str, shares: Sequence[str], runs: Path, voice: Voice, *, reason: str) -> None:
    _do(control.Split(model=model, shares=dict(_share(word) for word in shares), reason=reason), runs, voice)


def add(model: str, to: str, runs: Path, voice: Voice, *, reason: str) -> None:
    _do(control.Add(model=checked_name(model), to=_absolute(to), reason=reason), runs, voice)


def remove(name: str, runs: Path, voice: Voice, *, reason: str) -> None:
    _do(control.Remove(name=name, reason=reason), runs, voice)


def reload(runs: Path, voice: Voice, *, reason: str) -> None:
    _do(control.Reload(reason=reason, language=current_language()), runs, voice)


def say_renewed(facts: Mapping[str, Any], voice: Voice) -> None:
    """Of a reload: what became of the models, and what waits for the next start."""
    for deed in ("added", "changed", "removed"):
        if models := facts.get(deed):
            voice.say(say(f"rollout.reload_{deed}", models=listed(models)))
    for kept in facts.get("kept", ()):
        voice.fail(say("rollout.reload_kept", **kept))


def _do(request: control.Request, runs: Path, voice: Voice) -> None:
    done = control.ask(runs / FOLDER, request)
    shown = {name: _plain(value) for name, value in done.items()}
    voice.say(say(f"rollout.done_{request.do}", **shown))
    say_renewed(done, voice)
    if done.get("late"):
        voice.fail(say("rollout.late", names=_plain(done["late"])))
    voice.result(done)


def _absolute(target: str) -> str:
    """The server stands in another folder; a version's name stays what it is."""
    return str(Path(target).resolve()) if Path(target).is_dir() else target


def _share(word: str) -> tuple[str, float]:
    """`3=0.9`; a path may hold `=` itself."""
    version, _, share = word.rpartition("=")
    try:
        return _absolute(version), float(share)
    except ValueError as error:
        raise EngineError("rollout.share_form", where=word, given=word) from error


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return listed(f"{name} {share:.0%}" if share < 1 else name for name, share in value.items())
    return listed(value) if isinstance(value, list) else str(value)


def _show_models(told: dict[str, Any], voice: Voice) -> None:
    if not told["models"]:
        voice.say(say("rollout.no_models"))
        return
    rows = []
    for model in told["models"]:
        words = {_named(lens): lens["share"] for lens in model["lenses"]}
        rows.append((model["name"], _plain(words), model["follows"] or "-", str(len(model["before"]))))
    voice.table([say(f"rollout.col_{part}") for part in ("model", "answers", "follows", "back")], rows)
    for model in told["models"]:
        if model["problem"]:
            voice.fail(say("rollout.problem", name=model["name"], problem=model["problem"]))
        for warning in model["warnings"]:
            voice.say(warning, "yellow")


def _show_pool(pool: dict[str, Any], voice: Voice) -> None:
    known = {key: pool[key] for key in ("name", "driver")}
    key = "rollout.whole_model" if any(lens["is_base"] for lens in pool["lenses"]) else "rollout.working_set"
    voice.say(say(key, **known, loaded=pool["num_loaded"], most=pool["most_loaded"]))
    columns = [say(f"rollout.col_{part}") for part in ("lens", "grade", "on", "used", "now", "last")]
    voice.table(columns, [_lens_row(lens) for lens in pool["lenses"]], num_whole=1)
    columns = [say(f"rollout.col_{part}") for part in ("replica", "state", "now", "pid", "starts")]
    rows = [
        (r["name"], say(f"rollout.state_{r['state']}"), str(r["outstanding"]), str(r.get("pid") or "-"),
         str(r.get("num_starts", "-")))
        for r in pool["replicas"]
    ]  # fmt: skip
    voice.table(columns, rows, num_whole=1)
    for r in pool["replicas"]:
        if r["problem"]:
            voice.fail(say("rollout.replica_problem", name=r["name"], problem=r["problem"]))


def _show_workers(told: dict[str, Any], voice: Voice) -> None:
    posts = {post["name"]: post for post in told["workers"]}
    rows = []
    for child in told["children"]:
        post = posts.get(child["name"], {"board": "-", "outstanding": "-"})
        state = say(f"rollout.state_{child['state']}")
        rows.append((child["name"], state, str(post["board"]), str(post["outstanding"]), str(child["pid"]),
                     str(child["num_starts"])))  # fmt: skip
    voice.table([say(f"rollout.col_{part}") for part in ("worker", "state", "board", "now", "pid", "starts")], rows)


def _named(lens: dict[str, Any]) -> str:
    return f"{lens['name']} ({lens['label']})" if lens["label"] else str(lens["name"])


def _lens_row(lens: dict[str, Any]) -> tuple[str, ...]:
    mark = "* " if lens["is_pointed_at"] else "  "
    counts = (lens["num_replicas"], lens["num_leased"], lens["outstanding"])
    return (mark + _named(lens), lens["grade"] or "-", *map(str, counts), _when(lens["last_used"]))


def _when(moment: float | None) -> str:
    """The time of today, the date of other days: five characters, which never fold."""
    if not moment:
        return "-"
    then = datetime.datetime.fromtimestamp(moment).astimezone()
    return f"{then:%H:%M}" if then.date() == datetime.datetime.now().astimezone().date() else f"{then:%m-%d}"
