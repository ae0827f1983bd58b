"""The shelf of metrics: how one answer is judged. To add one: a class with `name` and `score` (see `metric.py`) and one
line here, or an entry point `danlu.metrics` of another package."""

from __future__ import annotations

from danlu.core.shelf import Shelf
from danlu.evaluation.metrics.metric import Corpus, CorpusMetric, Metric, Verdict, metric_for

__all__ = ["METRICS", "Corpus", "CorpusMetric", "Metric", "Verdict", "metric_for"]

METRICS: Shelf[type[Metric]] = Shelf(
    "metrics",
    {
        "exact": "danlu.evaluation.metrics.exact:Exact",
        "contains": "danlu.evaluation.metrics.contains:Contains",
        "prefix": "danlu.evaluation.metrics.prefix:Prefix",
        "char_f1": "danlu.evaluation.metrics.char_f1:CharF1",
        "label": "danlu.evaluation.metrics.label:LabelAccuracy",
        "refusal": "danlu.evaluation.metrics.refusal:Refusal",
        "guarded": "danlu.evaluation.metrics.guarded:Guarded",
        "declines": "danlu.evaluation.metrics.declines:Declines",
        "choice": "danlu.evaluation.metrics.choice:Choice",
        "numeric": "danlu.evaluation.metrics.numeric:Numeric",
        "format": "danlu.evaluation.metrics.format:Format",
        "json": "danlu.evaluation.metrics.json_value:JsonAnswer",
        "json_fields": "danlu.evaluation.metrics.json_value:JsonFields",
        "rouge_1": "danlu.evaluation.metrics.rouge:Rouge1",
        "rouge_2": "danlu.evaluation.metrics.rouge:Rouge2",
        "rouge_l": "danlu.evaluation.metrics.rouge:RougeL",
        "bleu": "danlu.evaluation.metrics.bleu:Bleu",
        "chrf": "danlu.evaluation.metrics.bleu:Chrf",
    },
)
