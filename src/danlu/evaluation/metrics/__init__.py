"""The shelf of metrics: how one answer is judged. To add one: a class with `name` and `score` (see `metric.py`) and one
line here, or an entry point `danlu.metrics` of another package."""

from __future__ import annotations

from danlu.core.registry import Registry
from danlu.evaluation.metrics.metric import Metric, Verdict, metric_for

__all__ = ["METRICS", "Metric", "Verdict", "metric_for"]

METRICS: Registry[type[Metric]] = Registry(
    "metrics",
    {
        "exact": "danlu.evaluation.metrics.exact:Exact",
        "contains": "danlu.evaluation.metrics.contains:Contains",
        "prefix": "danlu.evaluation.metrics.prefix:Prefix",
        "char_f1": "danlu.evaluation.metrics.char_f1:CharF1",
        "label": "danlu.evaluation.metrics.label:LabelAccuracy",
        "refusal": "danlu.evaluation.metrics.refusal:Refusal",
    },
)
