"""The gates as one page: verdicts and curves, drawn with danlu's own blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.core.html import Series, legend, lines, page, paragraph, section, table
from danlu.core.html.tag import Tone, join
from gates.judge import NF4, NF4_PEER, SEEDS, WINDOW, smooth

CHARTS: tuple[tuple[str, tuple[tuple[str, Tone], ...]], ...] = (
    ("danlu and PEFT, one seed", (("PEFT, seed 0", "base"), (SEEDS[0], "tuned"))),
    ("danlu, three seeds", ((SEEDS[2], "soft"), (SEEDS[1], "base"), (SEEDS[0], "tuned"))),
    (
        "bases of fewer bits",
        (("NF4 base", "warn"), ("int8 base", "base"), ("fp8 base", "accent"), (SEEDS[0], "tuned")),
    ),
    ("NF4 and PEFT on the same rounded weights", ((NF4_PEER, "base"), (NF4, "warn"))),
    (
        "full fine-tuning",
        (("full, no masters, 8-bit states", "warn"), ("full, 8-bit states", "accent"), ("full", "tuned")),
    ),
)


def page_of(results: dict[str, Any]) -> str:
    about = results["about"]
    blocks = []
    for name, model in results["models"].items():
        charts = [chart for title, wanted in CHARTS for chart in _chart(title, wanted, model["runs"])]
        blocks.append(section(name, _verdicts(model["gates"]), *charts))
    machine = about["gpu"] or about["cpu"]
    return page(
        *blocks,
        title="Quality gates",
        language="en",
        kicker="danlu bench",
        lead=f"{results['steps']} steps on real conversations; curves are means over {WINDOW} steps.",
        footer=f"{machine} · commit {about['commit']} · {about['date']}",
    )


def _verdicts(gates: Sequence[dict[str, Any]]) -> Any:
    rows = [
        (gate["gate"], "", "", f"skipped: {gate['skipped']}")
        if "skipped" in gate
        else (gate["gate"], f"{gate['value']:.5f}", f"{gate['limit']:.5f}", "pass" if gate["passed"] else "fail")
        for gate in gates
    ]
    return table(("gate", "value", "limit", "verdict"), rows, numeric=False)


def _chart(title: str, wanted: Sequence[tuple[str, Tone]], runs: dict[str, Any]) -> list[Any]:
    found = [(name, tone) for name, tone in wanted if "losses" in runs.get(name, {})]
    if not found:
        return []
    series = [
        Series(name, [(at + WINDOW, loss) for at, loss in enumerate(smooth(runs[name]["losses"]))], tone)
        for name, tone in found
    ]
    drawn = lines(series, title=title, x_label="step", y_label="training loss")
    return [paragraph(title), join(legend(found), drawn)]
