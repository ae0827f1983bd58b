"""Mirrors of a run in other programs. The run's own files are the truth: a mirror that fails changes nothing."""

from danlu.core.registry import Registry
from danlu.run.trackers.tracker import Tracker

TRACKERS: Registry[type[Tracker]] = Registry(
    "trackers",
    {
        "mlflow": "danlu.run.trackers.mlflow:MLflow",
        "wandb": "danlu.run.trackers.wandb:WandB",
        "tensorboard": "danlu.run.trackers.tensorboard:TensorBoard",
    },
)
