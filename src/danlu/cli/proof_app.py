"""The words of `danlu judge`, `danlu weigh` and `danlu examine`: their command lines. Others answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from danlu import cli
from danlu.cli.options import RUNS, Runs
from danlu.cli.voice import Voice
from danlu.core.errors import EngineError
from danlu.core.messages import say

Target = Annotated[str, typer.Argument(metavar="RECIPE|RUN", help=say("cli.arg_target"))]
KeyFile = Annotated[Path | None, typer.Option("--key-file", metavar="FILE", help=say("judge.opt_key_file"))]
KeyVariable = Annotated[str | None, typer.Option("--key-variable", metavar="NAME", help=say("judge.opt_key_variable"))]
Pair = tuple[str, str] | None
MAX_TEXT_BYTES = 100_000


def judge_command(
    voice: Voice,
    target: Target,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help=say("judge.opt_model"))] = None,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help=say("judge.opt_url"))] = None,
    key_file: KeyFile = None,
    key_variable: KeyVariable = None,
    prices: Annotated[
        tuple[float, float] | None, typer.Option("--prices", metavar="SENT RECEIVED", help=say("judge.opt_prices"))
    ] = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", metavar="X", help=say("judge.opt_max_cost"))] = None,
    levels: Annotated[list[str] | None, typer.Option("--level", help=say("judge.opt_level"))] = None,
    rubric: Annotated[Path | None, typer.Option("--rubric", metavar="FILE", help=say("judge.opt_rubric"))] = None,
    max_items: Annotated[int | None, typer.Option("--max-items", min=1, help=say("judge.opt_max_items"))] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help=say("judge.opt_rows"))] = 50,
    read: Annotated[Path | None, typer.Option("--read", metavar="SHEET", help=say("judge.opt_read"))] = None,
    runs: Runs = RUNS,
) -> None:
    run = cli.targets.open_target(target, (), runs)
    if read is not None:
        cli.judging.show_people(run, read, voice)
        return
    if not model:
        raise EngineError("judge.no_model", where="--model")
    seat = cli.judging.seat_of(model, url, key_file, key_variable, prices, max_cost, levels or ())
    cli.judging.show_judgement(run, seat, voice, rubric=_text(rubric), max_items=max_items, rows=rows)


def weigh_command(
    voice: Voice,
    target: Target,
    documents: Annotated[list[Path] | None, typer.Option("--documents", help=say("weigh.opt_documents"))] = None,
    questions: Annotated[
        Path | None, typer.Option("--questions", metavar="FILE", help=say("weigh.opt_questions"))
    ] = None,
    passages: Annotated[int, typer.Option("--passages", min=1, help=say("weigh.opt_passages"))] = 4,
    passage_tokens: Annotated[
        int, typer.Option("--passage-tokens", min=16, help=say("weigh.opt_passage_tokens"))
    ] = 200,
    examples: Annotated[int, typer.Option("--examples", min=0, help=say("weigh.opt_examples"))] = 4,
    instructions: Annotated[
        Path | None, typer.Option("--instructions", metavar="FILE", help=say("weigh.opt_instructions"))
    ] = None,
    max_items: Annotated[int | None, typer.Option("--max-items", min=1, help=say("weigh.opt_max_items"))] = None,
    prices: Annotated[
        tuple[float, float] | None, typer.Option("--prices", metavar="ASKED ANSWERED", help=say("weigh.opt_prices"))
    ] = None,
    price: Annotated[float | None, typer.Option("--price", metavar="X", min=0, help=say("weigh.opt_price"))] = None,
    embeddings: Annotated[
        Pair, typer.Option("--embeddings", metavar="URL MODEL", help=say("weigh.opt_embeddings"))
    ] = None,
    rerank: Annotated[Pair, typer.Option("--rerank", metavar="URL MODEL", help=say("weigh.opt_rerank"))] = None,
    key_file: KeyFile = None,
    key_variable: KeyVariable = None,
    runs: Runs = RUNS,
) -> None:
    run = cli.targets.open_target(target, (), runs)
    wishes = cli.weighing.wishes_of(
        documents=documents or (), questions=questions, num_passages=passages, passage_tokens=passage_tokens,
        num_examples=examples, instructions=_text(instructions), max_items=max_items, prices=prices, price_per_h=price,
        embeddings=embeddings, rerank=rerank, key_file=key_file, key_variable=key_variable,
    )  # fmt: skip
    cli.weighing.show_weighed(run, wishes, voice)


def examine_command(
    voice: Voice,
    target: Target,
    harness: Annotated[str, typer.Option("--with", metavar="SUITE", help=say("harness.opt_with"))],
    python: Annotated[Path, typer.Option("--python", metavar="FILE", help=say("harness.opt_python"))],
    tasks: Annotated[list[str], typer.Option("--task", metavar="NAME", help=say("harness.opt_task"))],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help=say("harness.opt_limit"))] = None,
    scores: Annotated[bool, typer.Option("--likelihoods", help=say("harness.opt_scores"))] = False,
    include: Annotated[Path | None, typer.Option("--include", metavar="DIR", help=say("harness.opt_include"))] = None,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help=say("harness.opt_url"))] = None,
    models: Annotated[
        tuple[str, str], typer.Option("--models", metavar="BASE TUNED", help=say("harness.opt_models"))
    ] = ("base", "tuned"),
    runs: Runs = RUNS,
) -> None:
    run = cli.targets.open_target(target, (), runs)
    cli.examining.show_examined(
        run, voice, harness=harness, python=python, tasks=tuple(tasks), limit=limit, scores=scores, include=include,
        url=url, models=models,
    )  # fmt: skip


def _text(path: Path | None) -> str:
    return path.read_text(encoding="utf-8-sig")[:MAX_TEXT_BYTES].strip() if path else ""
