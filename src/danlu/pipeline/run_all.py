"""run_all: every act of a recipe, each reused when nothing it stands on has changed."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.core.progress import Progress, Silent
from danlu.evaluation.gate import Gate
from danlu.evaluation.report import Report, with_parity
from danlu.pipeline.evaluate import evaluate, save_report
from danlu.pipeline.export import Exported, export
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
        verdicts = {artifact.verdict for artifact in self.artifacts}
        return "fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "not run"


def run_all(run: Run, *, device: str = "auto", progress: Progress | None = None) -> Summary:
    """prepare, train, evaluate, export; the report is judged once more when parity is known."""
    told = progress or Silent()
    prepared = prepare(run, progress=told)
    stages = train(run, prepared, device=device, progress=told)
    report = evaluate(run, device=device, progress=told)
    artifacts = export(run, device=device, progress=told)
    section = run.recipe.gate
    gate = Gate(section.min_gain, section.max_forget, section.min_accuracy, section.min_consistency)
    summary = Summary(prepared, stages, report, artifacts)
    parity = {
        "verdict": summary.parity_verdict,
        "artifacts": [a.manifest.parity | {"kind": a.manifest.kind} for a in artifacts],
    }
    report = with_parity(report, parity, gate)
    save_report(run, report)
    return Summary(prepared, stages, report, artifacts)
