"""The `danlu` command: its verbs, in the order a newcomer meets them. Each parses, calls one function, prints."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

import danlu
from danlu import cli
from danlu.cli.advise_app import advise_command
from danlu.cli.audit_app import audit_app, forget_command
from danlu.cli.bundle_app import bundle_command
from danlu.cli.ending import Verbs
from danlu.cli.help import App
from danlu.cli.keys_app import keys_app, usage_command
from danlu.cli.options import (
    RUNS,
    Card,
    Columns,
    Format,
    Lang,
    Memory,
    Overrides,
    Paths,
    RecipeFile,
    Runs,
    Target,
)
from danlu.cli.proof_app import examine_command, judge_command, weigh_command
from danlu.cli.pruning import prune_command
from danlu.cli.registry_app import registry_app
from danlu.cli.serve_app import chat_command, feedback_app, serve_command
from danlu.cli.serving_app import serving_app
from danlu.cli.sweep_app import sweep_command
from danlu.cli.voice import Voice
from danlu.core.errors import EvaluationError
from danlu.core.messages import say
from danlu.version import VERSION

app = App(cls=Verbs)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"danlu {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True, help=say("cli.about"))
def root(
    ctx: typer.Context,
    lang: Lang = None,
    version: Annotated[
        bool, typer.Option("--version", "-V", help=say("cli.opt_version"), callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Options of danlu itself; without a command, what there is."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


@app.command(help=say("cli.demo"))
def demo(
    voice: Voice,
    full: Annotated[bool, typer.Option("--full", help=say("cli.opt_full"))] = False,
    runs: Runs = RUNS,
) -> None:
    story = danlu.demo(runs, full=full, progress=voice.progress)
    cli.show.show_demo(story, voice)
    if story.summary.parity_verdict == "fail":
        raise typer.Exit(1)


@app.command(help=say("cli.new"))
def new(
    voice: Voice,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help=say("cli.arg_name"))] = None,
    other: Annotated[Path | None, typer.Option("--from", metavar="FILE", help=say("translate.opt_from"))] = None,
) -> None:
    if other is not None:
        cli.new.write_translation(name, other, voice)
    else:
        cli.new.write_new_recipe(name, voice)


@app.command(help=say("cli.inspect"))
def inspect(
    voice: Voice,
    paths: Paths,
    base: Annotated[str, typer.Option("--base", help=say("cli.opt_base"))] = "ember",
    samples: Annotated[int, typer.Option("--samples", "-n", min=0, help=say("cli.opt_samples"))] = 3,
    context: Annotated[int, typer.Option("--context", min=16, help=say("cli.opt_context"))] = 2048,
    form: Format = None,
    columns: Columns = None,
) -> None:
    sources = cli.inspecting.sources_of(paths, form, columns or ())
    cli.inspecting.show_inspection(sources, voice, base=base, num_samples=samples, context=context)


@app.command(help=say("cli.convert"))
def convert(
    voice: Voice,
    paths: Paths,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help=say("cli.opt_out"))],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help=say("cli.opt_to"))] = "messages",
    form: Format = None,
    columns: Columns = None,
) -> None:
    cli.converting.convert_files(cli.inspecting.sources_of(paths, form, columns or ()), out, to, voice)


@app.command(help=say("cli.check"))
def check(voice: Voice, recipe: RecipeFile, overrides: Overrides = None) -> None:
    if not cli.checking.check(recipe, overrides or (), voice):
        raise typer.Exit(2)


@app.command(help=say("cli.plan"))
def plan(
    voice: Voice,
    recipe: RecipeFile,
    overrides: Overrides = None,
    card: Card = None,
    memory: Memory = None,
    price: Annotated[float | None, typer.Option("--price", metavar="X", min=0, help=say("cli.opt_price"))] = None,
) -> None:
    fits = cli.show_plan.show_plan(recipe, overrides or (), voice, card=card, memory_gib=memory, price_per_h=price)
    if not fits:
        raise typer.Exit(1)


@app.command(help=say("cli.prepare"))
def prepare(voice: Voice, target: Target, overrides: Overrides = None, runs: Runs = RUNS) -> None:
    run = cli.targets.open_target(target, overrides or (), runs)
    cli.targets.tell_if_new(run, voice)
    prepared = danlu.prepare(run, progress=voice.progress)
    cli.preparing.show_prepared(run, prepared, voice)


@app.command(help=say("select.about"))
def select(
    voice: Voice,
    target: Target,
    overrides: Overrides = None,
    budget: Annotated[int, typer.Option("--budget", metavar="N", min=1, help=say("select.opt_budget"))] = 50,
    by: Annotated[str, typer.Option("--by", help=say("select.opt_by"))] = "auto",
    pool: Annotated[list[Path] | None, typer.Option("--pool", help=say("select.opt_pool"))] = None,
    scores: Annotated[Path | None, typer.Option("--scores", metavar="FILE", help=say("select.opt_scores"))] = None,
    functions: Annotated[
        Path | None, typer.Option("--functions", metavar="FILE", help=say("select.opt_functions"))
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help=say("select.opt_repeats"))] = 5,
    exports: Annotated[list[Path] | None, typer.Option("--read", metavar="FILE", help=say("select.opt_read"))] = None,
    runs: Runs = RUNS,
) -> None:
    run = cli.targets.open_target(target, overrides or (), runs)
    if exports:
        cli.selecting.show_labels(run, voice, exports)
        return
    cli.selecting.show_selection(
        run, voice, budget=budget, by=by, pool=pool or (), scores=scores, functions=functions, repeats=repeats
    )


@app.command(help=say("cli.train"))
def train(voice: Voice, target: Target, overrides: Overrides = None, runs: Runs = RUNS) -> None:
    run = cli.targets.open_target(target, overrides or (), runs)
    cli.targets.tell_if_new(run, voice)
    stages = danlu.train(run, progress=voice.progress)
    cli.show.show_trained(run, stages, voice)


@app.command(help=say("cli.evaluate"))
def evaluate(
    voice: Voice,
    target: Target,
    overrides: Overrides = None,
    questions: Annotated[
        Path | None, typer.Option("--questions", metavar="FILE", help=say("cli.opt_questions"))
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help=say("proof.opt_curve"))] = False,
    gate: Annotated[bool, typer.Option("--gate", help=say("proof.opt_gate"))] = False,
    runs: Runs = RUNS,
) -> None:
    if questions is not None and cli.targets.is_artifact(target):
        cli.targets.refuse_overrides(target, overrides or ())
        cli.show.show_report(
            Path(target), danlu.evaluate_artifact(Path(target), questions, progress=voice.progress), voice
        )
        return
    run = cli.targets.open_target(target, overrides or (), runs)
    report = danlu.evaluate(run, questions=questions, progress=voice.progress)
    if curve:
        found = danlu.learning_curve(run, progress=voice.progress)
        report = report if questions is not None else danlu.evaluate(run, progress=voice.progress)
        cli.proving.show_curve(found, voice)
    cli.show.show_report(run.folder, report, voice)
    cli.proving.show_diagnosis(report, voice)
    if gate:
        cli.proving.exit_as_judged(report)


@app.command(help=say("cli.export"))
def export(
    voice: Voice,
    target: Target,
    overrides: Overrides = None,
    kinds: Annotated[list[str] | None, typer.Option("--kind", help=say("cli.opt_kinds"))] = None,
    runs: Runs = RUNS,
) -> None:
    run = cli.targets.open_target(target, overrides or (), runs)
    artifacts = danlu.export(run, kinds=kinds, progress=voice.progress)
    if not cli.show.show_artifacts(artifacts, voice):
        raise typer.Exit(1)


@app.command(help=say("cli.run"))
def run(
    voice: Voice,
    target: Annotated[str, typer.Argument(metavar="RECIPE|RUN|DATA...", help=say("begin.arg_target"))],
    overrides: Overrides = None,
    smoke: Annotated[bool, typer.Option("--smoke", help=say("cli.opt_smoke"))] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=say("begin.opt_yes"))] = False,
    runs: Runs = RUNS,
) -> None:
    data, wanted = cli.targets.data_and_overrides(target, overrides or ())
    if data:
        if not cli.beginning.run_data(data, wanted, runs, voice, is_smoke=smoke, is_agreed=yes):
            raise typer.Exit(1)
        return
    if smoke:
        wanted = cli.targets.smoke_overrides(target, wanted)
        voice.progress.note(say("cli.smoke", overrides=" ".join(wanted)))
    opened = cli.targets.open_target(target, wanted, runs)
    cli.targets.tell_if_new(opened, voice)
    summary = danlu.run_all(opened, progress=voice.progress)
    cli.show.show_summary(opened, summary, voice)
    if summary.parity_verdict == "fail":
        raise typer.Exit(1)


@app.command(name="round", help=say("round.about"))
def round_(voice: Voice, recipe: RecipeFile, overrides: Overrides = None, runs: Runs = RUNS) -> None:
    if not cli.rounding.show_round(recipe, overrides or (), runs, voice):
        raise typer.Exit(1)


app.command(name="prune", help=say("prune.about"))(prune_command)
app.command(name="sweep", help=say("sweep.about"))(sweep_command)
app.command(name="chat", help=say("serve.chat"))(chat_command)
app.command(name="serve", help=say("serve.about"))(serve_command)


@app.command(help=say("track.about"))
def track(
    voice: Voice,
    target: Target,
    to: Annotated[str, typer.Option("--to", help=say("track.opt_to"))] = "mlflow",
    place: Annotated[str, typer.Option("--place", help=say("track.opt_place"))] = "",
    runs: Runs = RUNS,
) -> None:
    cli.tracking.track(target, to, place, runs, voice)


@app.command(help=say("cli.why"))
def why(
    voice: Voice,
    sample: Annotated[str, typer.Argument(metavar="SAMPLE", help=say("cli.arg_sample"))],
    target: Annotated[str | None, typer.Argument(metavar="[RUN]", help=say("cli.arg_one_run"))] = None,
    runs: Runs = RUNS,
) -> None:
    cli.why.show_why(sample, target, runs, voice)


@app.command(help=say("cli.show"))
def show(voice: Voice, target: Target, runs: Runs = RUNS) -> None:
    cli.show.show(target, runs, voice)


@app.command(name="runs", help=say("cli.runs"))
def runs_(voice: Voice, folder: Runs = RUNS) -> None:
    cli.show.show_runs(folder, voice)


@app.command(help=say("cli.compare"))
def compare(
    voice: Voice,
    first: Annotated[str, typer.Argument(metavar="BEFORE", help=say("cli.arg_before"))],
    second: Annotated[str | None, typer.Argument(metavar="[AFTER]", help=say("cli.arg_after"))] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", "-n", min=0, help=say("variants.opt_questions"))
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help=say("compare.opt_html"))] = None,
    runs: Runs = RUNS,
) -> None:
    if second is None:
        cli.comparing.compare_variants(first, runs, voice, num_questions=questions, html=html)
        return
    if questions is not None:
        raise EvaluationError("variants.one_run", where="-n", given=questions)
    cli.comparing.compare(first, second, runs, voice, html=html)


@app.command(name="list", help=say("cli.list"))
def list_(
    voice: Voice,
    shelf: Annotated[str | None, typer.Argument(metavar="[SHELF]", help=say("cli.arg_shelf"))] = None,
) -> None:
    cli.shelves.show_shelf(shelf, voice)


@app.command(help=say("cli.explain"))
def explain(
    voice: Voice,
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help=say("cli.arg_key"))] = None,
    schema: Annotated[bool, typer.Option("--schema", help=say("cli.opt_schema"))] = False,
) -> None:
    if schema:
        Voice(as_json=True, quiet=True).result(danlu.Recipe.model_json_schema())
    else:
        cli.explain.explain(key, voice)


app.add_typer(audit_app, name="audit", help=say("cli.audit"))
app.add_typer(registry_app, name="registry", help=say("registry.about"))
app.add_typer(serving_app, name="serving", help=say("rollout.about"))
app.add_typer(keys_app, name="keys", help=say("keys.about"))
app.command(name="usage", help=say("keys.usage_about"))(usage_command)
app.command(name="forget", help=say("cli.forget"))(forget_command)
app.command(name="examine", help=say("harness.about"))(examine_command)
app.command(name="judge", help=say("judge.about"))(judge_command)
app.command(name="weigh", help=say("weigh.about"))(weigh_command)
app.command(name="bundle", help=say("bundle.about"))(bundle_command)
app.add_typer(feedback_app, name="feedback", help=say("serve.feedback_about"))
app.command(name="advise", help=say("advice.about"))(advise_command)


@app.command(help=say("cli.doctor"))
def doctor(voice: Voice) -> None:
    if not cli.doctor.doctor(voice):
        raise typer.Exit(1)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # consoles of another alphabet
    app(prog_name="danlu")
