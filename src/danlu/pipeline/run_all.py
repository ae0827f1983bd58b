"""run_all: every act of a recipe, each reused when nothing it stands on has changed."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.core.progress import Progress, Silent
from danlu.evaluation.report import Report
from danlu.pipeline.evaluate import evaluate
from danlu.pipeline.export import Exported, export, parity_of
from danlu.pipeline.prepare import Prepared, prepare
from danlu.pipeline.train import Trained, train
from danlu.run.run import Run


@dataclass(frozen=True, slots=True)
class Summary:
    """What a whole run came to."""

    prepared: Prepared
    stages: list[Trained]
    report: Report
    artifacts: list[Exported]

    @property
    def parity_verdict(self) -> str:
        """pass when every artefact passed, fail when one failed; "not run" when nothing was exported."""
        return str(parity_of([artifact.manifest for artifact in self.artifacts])["verdict"])


def run_all(run: Run, *, device: str = "auto", progress: Progress | None = None) -> Summary:
    """prepare, train, evaluate, export; the report is judged once more when parity is known."""
    progress = progress or Silent()
    prepared = prepare(run, progress=progress)
    stages = train(run, prepared, device=device, progress=progress)
    evaluate(run, device=device, progress=progress)
    artifacts = export(run, device=device, progress=progress)
    return Summary(prepared, stages, Report.from_json(run.read("report.json")), artifacts)
