"""Chapter `tracking`: which programs are shown a run while it works."""

from __future__ import annotations

from typing import Literal

from danlu.recipe.section import Section


class TrackingSection(Section):
    to: tuple[Literal["mlflow", "wandb", "tensorboard"], ...] = ()
    """Where figures are mirrored; the run's own events.jsonl is always written."""

    mlflow: str = ""
    """Address of an MLflow server; empty keeps a SQLite file beside the runs."""

    wandb: Literal["offline", "online"] = "offline"
    """offline keeps files to be synced by hand; online sends them as they come."""
