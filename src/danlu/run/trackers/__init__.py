"""Mirrors of a run in other programs. The run's own files are the truth: a mirror that fails changes nothing."""

from danlu.core.shelf import Shelf
from danlu.run.trackers.tracker import Tracker

TRACKERS: Shelf[type[Tracker]] = Shelf(
    "trackers",
    {
        "mlflow": "danlu.run.trackers.mlflow:MLflow",
        "wandb": "danlu.run.trackers.wandb:WandB",
        "tensorboard": "danlu.run.trackers.tensorboard:TensorBoard",
    },
)
