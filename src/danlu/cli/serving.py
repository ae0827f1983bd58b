"""`danlu serve`: what will be served and by what, then the server itself, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.cli.rolling import say_renewed
from danlu.cli.serving_words import ServingWords
from danlu.cli.voice import Voice
from danlu.core.messages import current_language, listed, say
from danlu.pipeline.serve import check_serving, prepare_serving, run_server
from danlu.pipeline.serve_look import Serving
from danlu.serving.known_servers import SERVERS
from danlu.serving.snippets import KEY, snippets


def serve(words: Sequence[str], runs: Path, voice: Voice, *, config: Path | None, first_key: bool, dry: bool) -> None:
    """`words`: targets and overrides, in any order."""
    asked = ServingWords.of(words, config)
    wanted, section = asked.read(runs)
    if dry:
        checked = check_serving(wanted, section, runs)
        checked.close()
        _show(checked, voice)
        voice.result(_facts(checked))
        return
    serving = prepare_serving(
        wanted, section, runs, makes_key=first_key or (sys.stdin.isatty() and not voice.as_json),
        account=Path.home() / SERVERS, tell=voice.progress.note,
    )  # fmt: skip
    try:
        _show(serving, voice)
        screen = _Screen(serving, voice)
        voice.progress.note(say("serve.starting"))
        reread = None if asked.source is None else lambda: asked.read(runs)
        asyncio.run(run_server(serving, reread=reread, on_event=screen.told))
        voice.say(say("serve.ended"))
    finally:
        serving.close()


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
        if not voice.as_json:  # a secret stands in the result alone
            if serving.first_key:
                voice.say(say("serve.first_key", key=serving.first_key), "bold")
            self._say_snippets()
        if serving.section.metrics_port:
            voice.say(say("serve.figures", url=figures), "dim")
        voice.result(_facts(serving))

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


def _facts(serving: Serving) -> dict[str, Any]:
    return {
        "url": serving.url, "first_key": serving.first_key, "home": str(serving.home),
        "models": [vars_of(each) for each in serving.models],
        "choices": [choice.to_json() for choice in serving.choices], "notes": serving.notes,
    }  # fmt: skip


def vars_of(told: Any) -> dict[str, Any]:
    return {name: getattr(told, name) for name in ("model", "target", "kind", "digest", "driver", "why")}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return listed(map(_plain, value))
    return str(value)
