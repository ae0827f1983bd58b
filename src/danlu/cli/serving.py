"""`danlu serve`: what will be served and by what, then the server itself, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.cli.rolling import say_renewed
from danlu.cli.targets import RECIPE_SUFFIXES, open_target
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import current_language, say
from danlu.pipeline.serve import prepare_serving, run_server
from danlu.pipeline.serve_look import Serving
from danlu.pipeline.serve_targets import Wanted, read_targets
from danlu.recipe import Recipe
from danlu.recipe.overrides import apply_overrides
from danlu.recipe.serving import ServingSection
from danlu.run.run import Run
from danlu.serving.known_servers import SERVERS
from danlu.serving.snippets import KEY, snippets

PREFIX = "serving."


def serve(words: Sequence[str], runs: Path, voice: Voice, *, config: Path | None, first_key: bool, dry: bool) -> None:
    """`words`: targets and overrides, in any order."""
    overrides = [word for word in words if word.startswith(PREFIX) and "=" in word]
    targets = [word for word in words if word not in overrides]
    recipe = next((target for target in targets if _is_recipe(target)), None)
    if config is not None and recipe is not None:
        raise RunError("serve.two_recipes", where=recipe, given=str(config), other=recipe)
    source = config or (Path(recipe) if recipe else None)
    section = _section(source, targets, overrides)
    wanted = read_targets(targets, section, runs, lambda target: _run(target, runs))
    serving = prepare_serving(
        wanted, section, runs, makes_key=first_key or (sys.stdin.isatty() and not voice.as_json),
        account=Path.home() / SERVERS,
    )  # fmt: skip
    try:
        _show(serving, voice)
        if dry:
            return
        screen = _Screen(serving, voice)
        voice.progress.note(say("serve.starting"))
        reread = None if source is None else lambda: _reread(source, targets, overrides, runs)
        asyncio.run(run_server(serving, reread=reread, on_event=screen.told))
        voice.say(say("serve.ended"))
    finally:
        serving.close()


def _is_recipe(target: str) -> bool:
    return Path(target).suffix in RECIPE_SUFFIXES and not Path(target).is_dir()


def _run(target: str, runs: Path) -> Run:
    """A run that is there; nothing is started to be served."""
    if _is_recipe(target):
        recipe = Recipe.load(target)
        folder = runs / f"{recipe.name}-{recipe.digest[:8]}"
        if not (folder / "run.json").is_file():
            raise RunError("serve.not_run_yet", where=target, given=target)
        return Run.open(folder)
    return open_target(target, (), runs)


def _section(source: Path | None, targets: Sequence[str], overrides: Sequence[str]) -> ServingSection:
    """The chapter of the file that was named, else of the one run that is served, with overrides."""
    if source is not None:
        return Recipe.load(source, overrides).serving
    kept: ServingSection | None = None
    if len(targets) == 1 and (Path(targets[0]) / "run.json").is_file():
        kept = Run.open(Path(targets[0])).recipe.serving
    tree = {"serving": kept.model_dump(mode="json", exclude_defaults=True)} if kept is not None else {}
    return Recipe.from_tree(apply_overrides(tree, overrides)).serving


def _reread(
    source: Path, targets: Sequence[str], overrides: Sequence[str], runs: Path
) -> tuple[list[Wanted], ServingSection]:
    """For a reload: what the file says now. The command line says what it said."""
    section = _section(source, targets, overrides)
    return read_targets(targets, section, runs, lambda target: _run(target, runs)), section


# ---- what is shown


def _show(serving: Serving, voice: Voice) -> None:
    columns = [say(f"serve.col_{part}") for part in ("model", "digest", "kind", "target", "engine", "why")]
    rows = [(each.model, each.digest, each.kind, _near(each.target), each.driver, each.why) for each in serving.models]
    voice.table(columns, rows)
    for choice in serving.choices:
        others = [row for row in choice.rows() if row[0] != choice.plan.driver]
        told = say("drivers.separator").join(
            say(f"drivers.other{'_against' if against else ''}", driver=driver, state=state, against=against)
            for driver, state, _, against in others
        )
        voice.say(say("serve.others", pool=choice.plan.name, others=told), "dim")
    for note in serving.notes:
        voice.say(note, "yellow")


def _near(target: str) -> str:
    """A path as seen from here, where that is shorter."""
    path = Path(target)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else target


class _Screen:
    """What happens while it serves, on the terminal."""

    def __init__(self, serving: Serving, voice: Voice) -> None:
        self.serving, self.voice = serving, voice

    def told(self, name: str, facts: Mapping[str, Any]) -> None:
        shown = {key: _plain(value) for key, value in facts.items()}
        match name:
            case "opened":
                self._ready()
            case "worker" if facts.get("state") in ("waiting", "failed"):
                self.voice.fail(say("serve.event_worker", name=shown["name"], last_end=shown.get("last_end") or "-"))
            case "engine" if facts.get("problem"):
                self.voice.fail(say("rollout.replica_problem", name=shown["replica"], problem=shown["problem"]))
            case "engine" if facts.get("state") == "failed":
                self.voice.fail(say("serve.event_dead", name=shown["replica"], last_end=shown.get("last_end") or "-"))
            case "engine" if facts.get("state") in ("ready", "down"):
                key = "serve.event_back" if facts.get("state") == "ready" else "serve.event_engine"
                values = {"name": shown.get("replica", "-"), "last_end": shown.get("last_end") or "-"}
                self.voice.say(say(key, **values), "yellow")
            case "changed":
                text = " · ".join(f"{key} {value}" for key, value in shown.items() if key != "deed" and value)
                self.voice.say(say("serve.event_changed", deed=shown.get("deed", "-"), told=text))
            case "warning":
                self.voice.say(shown["why"], "yellow")
            case "refused":
                self.voice.fail(say("serve.event_refused", deed=shown.get("deed", "-"), why=shown.get("why", "-")))
            case "reloaded":
                self.voice.say(say("serve.event_reloaded"))
                say_renewed(facts, self.voice)
            case "no_figures":
                self.voice.say(say("serve.note_no_figures", port=shown["port"]), "yellow")

    def _ready(self) -> None:
        serving, voice = self.serving, self.voice
        figures = f"http://{serving.section.metrics_host}:{serving.section.metrics_port}/metrics"
        voice.say(say("serve.ready", url=serving.url), "bold green")
        if serving.first_key:
            voice.say(say("serve.first_key", key=serving.first_key), "bold")
        if not voice.as_json:
            self._say_snippets()
        if serving.section.metrics_port:
            voice.say(say("serve.figures", url=figures), "dim")
        voice.result(
            {
                "url": serving.url, "first_key": serving.first_key, "home": str(serving.home),
                "models": [vars_of(each) for each in serving.models],
                "choices": [choice.to_json() for choice in serving.choices], "notes": serving.notes,
            }
        )  # fmt: skip

    def _say_snippets(self) -> None:
        serving = self.serving
        cert = serving.section.tls.cert or ""
        model = serving.models[0].model
        wanted = ("serve.snippet_curl", "serve.snippet_python", "serve.snippet_chat")
        if serving.first_key:
            self.voice.say(f"\n  export {KEY.removeprefix('$')}={serving.first_key}")
        for key, text in snippets(serving.url, model, current_language(), ca=cert):
            if key not in wanted:
                continue
            if key == "serve.snippet_chat" and serving.first_key:
                text = f"danlu chat {serving.url}"  # this account knows the key already
            self.voice.say(f"\n{say(key)}", "bold")
            self.voice.say("\n".join(f"  {line}" for line in text.splitlines()))
        self.voice.say("")


def vars_of(told: Any) -> dict[str, Any]:
    return {name: getattr(told, name) for name in ("model", "target", "kind", "digest", "driver", "why")}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)
