"""demo: a made-up company's rules, learnt by the embedded base on this very machine, from files to a proven expert."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from danlu.core.files import read_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.model.hub import embedded_folder
from danlu.pipeline.ladder import climb
from danlu.pipeline.run_all import Summary, run_all
from danlu.planning.shapes import Shapes
from danlu.recipe import Recipe
from danlu.run.run import Run


@dataclass(frozen=True, slots=True)
class Story:
    """What happened; for --full the summary's report holds what each stage added."""

    run: Run
    summary: Summary
    seconds: float
    peak_memory_bytes: int


def demo(runs: Path = Path("runs"), *, full: bool = False, progress: Progress | None = None) -> Story:
    """The whole story on the embedded base; `full` adds continued pretraining and preference learning."""
    progress = progress or Silent()
    began = time.perf_counter()
    company = read_json(company_folder() / "company.json")
    run = Run.create(demo_recipe(full=full), runs)
    counts = company["counts"]
    shapes = Shapes.read(read_json(embedded_folder() / "config.json"))
    assert shapes is not None, "ember is a dense decoder"
    progress.note(
        say("cli.demo_intro", company=" / ".join(company["name"].values()), documents=len(company["documents"]),
            facts=counts["facts"], questions=counts["qa"], params=f"{shapes.num_params / 1e6:.1f} M")
    )  # fmt: skip
    summary = run_all(run, progress=progress)
    if full:
        summary = climb(run, summary, progress=progress)
    return Story(run, summary, time.perf_counter() - began, peak_memory_bytes())


def company_folder() -> Path:
    return Path(str(resources.files("danlu.assets") / "company"))


def demo_recipe(*, full: bool) -> Recipe:
    """The demo's recipe; `recipes/ember-sft-cpu.yaml` is the same for reading."""
    folder = company_folder()
    sources = [str(folder / "qa.jsonl"), str(folder / "behaviour.jsonl")]
    tree: dict[str, Any] = {
        "name": "demo-full" if full else "demo",
        "model": {"base": "ember"},
        "adapter": {"kind": "lora", "rank": 32},
        "data": {
            "sources": [*sources, str(folder / "preference.jsonl"), str(folder / "documents")] if full else sources,
            "validation": str(folder / "validation.jsonl"),
            "replay": {"ratio": 0.1, "path": str(folder / "replay.jsonl")},
            "split": {"test": 0.0, "validation": 0.0},
            # many wordings of each rule are meant, and other wordings are what the questions ask
            "cleaning": {"near_duplicates": "keep", "contaminated": "keep"},
        },
        "training": {"epochs": 7, "lr": 3e-3, "context": 256, "batch_tokens": 2048, "eval_every": 1.0, "patience": 0,
                     "schedule": "cosine"},
        "evaluation": {
            "tasks": ["domain", "consistency", "edge", "probes", "preference", "forgetting", "memorisation"],
            "questions": str(folder / "test.jsonl"),
            "edge": str(folder / "edge.jsonl"),
            "preference": str(folder / "preference_test.jsonl"),
            "general": str(folder / "general.jsonl"),
            "max_new_tokens": 48,
        },
        # ember answers 2 or 3 general questions in a hundred: there is next to nothing to lose in any category
        "gate": {"min_gain": 0.5, "max_forget": 1.5, "min_accuracy": 0.8, "min_consistency": 0.7, "max_loss": 0.05,
                 "max_category_loss": None},
    }  # fmt: skip
    if full:
        tree["stages"] = [
            {"kind": "pretrain", "training": {"epochs": 4, "lr": 5e-4}},
            "sft",
            {"kind": "dpo", "training": {"epochs": 2, "lr": 1e-4}},
        ]
    return Recipe.from_tree(tree)


def peak_memory_bytes() -> int:
    """Most memory this process ever held (resident); 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
