"""danlu 丹炉: private documents and questions in, a proven domain-expert language model out.

The names below load on first use, so that `import danlu` needs neither torch nor any reader of files.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from danlu import version

if TYPE_CHECKING:
    from danlu.adapters.full import Full
    from danlu.adapters.lora import LoRA
    from danlu.adapters.prefix import PrefixTuning
    from danlu.data.dataset import Dataset
    from danlu.data.inspect import inspect
    from danlu.model.build import load_model
    from danlu.pipeline.check import check
    from danlu.pipeline.curve import learning_curve
    from danlu.pipeline.demo import demo
    from danlu.pipeline.evaluate import evaluate, evaluate_artifact
    from danlu.pipeline.examine import examine
    from danlu.pipeline.export import export
    from danlu.pipeline.judge import judge
    from danlu.pipeline.open_engine import open_artifact, open_engine, open_engines
    from danlu.pipeline.prepare import prepare
    from danlu.pipeline.prune import prune
    from danlu.pipeline.round import play_round
    from danlu.pipeline.run_all import run_all
    from danlu.pipeline.serve import serve
    from danlu.pipeline.sweep import sweep
    from danlu.pipeline.train import train
    from danlu.pipeline.variants import compare_variants
    from danlu.pipeline.weigh import weigh
    from danlu.recipe.recipe import Recipe
    from danlu.run.run import Run
    from danlu.training.methods.dpo import DPO
    from danlu.training.methods.pretrain import Pretrain
    from danlu.training.methods.sft import SFT
    from danlu.training.trainer import Trainer

__version__ = version.VERSION

_PLACES = {
    "Recipe": "danlu.recipe.recipe",
    "Run": "danlu.run.run",
    "Dataset": "danlu.data.dataset",
    "inspect": "danlu.data.inspect",
    "check": "danlu.pipeline.check",
    "compare_variants": "danlu.pipeline.variants",
    "prepare": "danlu.pipeline.prepare",
    "train": "danlu.pipeline.train",
    "evaluate": "danlu.pipeline.evaluate",
    "evaluate_artifact": "danlu.pipeline.evaluate",
    "examine": "danlu.pipeline.examine",
    "export": "danlu.pipeline.export",
    "play_round": "danlu.pipeline.round",
    "prune": "danlu.pipeline.prune",
    "run_all": "danlu.pipeline.run_all",
    "serve": "danlu.pipeline.serve",
    "sweep": "danlu.pipeline.sweep",
    "demo": "danlu.pipeline.demo",
    "learning_curve": "danlu.pipeline.curve",
    "judge": "danlu.pipeline.judge",
    "weigh": "danlu.pipeline.weigh",
    "open_engine": "danlu.pipeline.open_engine",
    "open_engines": "danlu.pipeline.open_engine",
    "open_artifact": "danlu.pipeline.open_engine",
    "load_model": "danlu.model.build",
    "LoRA": "danlu.adapters.lora",
    "Full": "danlu.adapters.full",
    "PrefixTuning": "danlu.adapters.prefix",
    "Trainer": "danlu.training.trainer",
    "SFT": "danlu.training.methods.sft",
    "Pretrain": "danlu.training.methods.pretrain",
    "DPO": "danlu.training.methods.dpo",
}

__all__ = [
    "DPO",
    "SFT",
    "Dataset",
    "Full",
    "LoRA",
    "PrefixTuning",
    "Pretrain",
    "Recipe",
    "Run",
    "Trainer",
    "__version__",
    "check",
    "compare_variants",
    "demo",
    "evaluate",
    "evaluate_artifact",
    "examine",
    "export",
    "inspect",
    "judge",
    "learning_curve",
    "load_model",
    "open_artifact",
    "open_engine",
    "open_engines",
    "play_round",
    "prepare",
    "prune",
    "run_all",
    "serve",
    "sweep",
    "train",
    "weigh",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'danlu' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
