"""What people type out of habit, of other suites and of other programs: the command, and the knob behind a flag.

An old word is answered with danlu's, never silently taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from danlu.recipe import Recipe
from danlu.recipe.habits import HABITS
from danlu.recipe.knobs import all_knobs

COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("init", "create", "template", "quickstart"), "new"),
    **dict.fromkeys(("finetune", "fine-tune", "fit", "sft", "dpo", "pt", "pretrain", "rlhf", "tune"), "train"),
    **dict.fromkeys(("start", "resume", "all", "launch"), "run"),
    **dict.fromkeys(("validate", "lint"), "check"),
    **dict.fromkeys(("estimate", "vram", "fit-memory"), "plan"),
    **dict.fromkeys(("preprocess", "tokenize", "process", "clean"), "prepare"),
    **dict.fromkeys(("data", "dataset", "look", "head"), "inspect"),
    **dict.fromkeys(("hpo", "search", "grid", "optimize"), "sweep"),
    **dict.fromkeys(("eval", "test", "score"), "evaluate"),
    **dict.fromkeys(("bench", "benchmark", "lm-eval", "lm_eval"), "examine"),
    **dict.fromkeys(("diff", "vs"), "compare"),
    **dict.fromkeys(("rag", "retrieve"), "weigh"),
    **dict.fromkeys(("infer", "inference", "generate", "ask", "talk"), "chat"),
    **dict.fromkeys(("merge", "merge-lora", "merge_lora", "quantize", "quantise", "gguf", "push"), "export"),
    **dict.fromkeys(("deploy", "api", "app", "server", "webui", "web-ui", "ui"), "serve"),
    **dict.fromkeys(("status", "ps"), "serving"),
    **dict.fromkeys(("ls", "logs", "history"), "runs"),
    **dict.fromkeys(("info", "describe", "inspect-run"), "show"),
    **dict.fromkeys(("models", "recommend", "choose"), "advise"),
    **dict.fromkeys(("key", "token", "tokens"), "keys"),
    **dict.fromkeys(("env", "env-check", "diagnose"), "doctor"),
    **dict.fromkeys(("config", "knobs", "docs", "doc"), "explain"),
    **dict.fromkeys(("label", "annotate", "active"), "select"),
    **dict.fromkeys(("trace", "lineage"), "why"),
    **dict.fromkeys(("delete", "erase"), "forget"),
}


def knob_of(flag: str) -> str | None:
    """The knob that `--learning-rate`, `--epochs` or `--training.lr` means; None where none is meant."""
    knobs = all_knobs(Recipe)
    name = flag.lstrip("-").replace("-", "_")
    return name if name in knobs else HABITS.get(name) or knob_named(name)


def knob_named(last: str) -> str | None:
    """The one knob whose name ends so; None where there are several, or none."""
    found = [key for key in all_knobs(Recipe) if key.rpartition(".")[2] == last]
    return found[0] if len(found) == 1 else None
