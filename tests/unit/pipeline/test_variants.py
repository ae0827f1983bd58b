"""The table of variants from figures alone: which program is measured and why none, what the page and terminal show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import ExportError
from danlu.exports.trial import Order
from danlu.pipeline import variants
from danlu.pipeline.variants_html import NARROW, is_busy, render_variants, variant_rows
from danlu.run.artifact import Manifest


def manifest(kind: str = "gguf", **verdicts: str) -> Manifest:
    checks = [
        {
            "name": name,
            "verdict": verdict.replace("_", " "),
            "numbers": {"mean_kl": 0.5},
            "limits": {},
            "note": f"{name}?",
        }
        for name, verdict in verdicts.items()
    ]
    return Manifest(kind, "law", {}, {}, {}, (), {"verdict": "pass", "checks": checks}, "")


def row(name: str, num_bytes: int, accuracy: float | None, **others: Any) -> dict[str, Any]:
    right = {"a": True, "b": False}
    measured = None if accuracy is None else {
        "load_s": 0.5, "tokens_per_s": 1234.0, "peak_bytes": 3 << 20, "device_bytes": None, "right": right, "others_load": 0.0,
        "accuracy": {"value": accuracy, "interval": [accuracy - 0.1, accuracy + 0.1], "num_items": 2, "num_groups": 2},
    }  # fmt: skip
    return {"name": name, "verdict": "pass", "bytes": num_bytes, "base_bytes": 0, "reader": "danlu", "kl": 0.0123,
            "num_equal": 7, "num_answers": 8, "measured": measured, "why_not": "", "digest": "0"} | others  # fmt: skip


def table(*rows: dict[str, Any]) -> dict[str, Any]:
    trained = {"value": 0.5, "interval": [0.1, 0.9], "right": {"a": False, "b": False}}
    return {"name": "law", "run": "law-1", "base": "b", "hardware": "CPU", "num_questions": 2, "danlu": "0",
            "trained": trained, "pruned": None, "variants": list(rows)}  # fmt: skip


def test_the_program_that_proved_it_is_measured_and_a_missing_one_is_named() -> None:
    assert variants.reader_of(manifest("merged", transformers_logits="pass", danlu_logits="pass")) == ("danlu", "")
    assert variants.reader_of(manifest("merged", transformers_logits="pass", danlu_logits="fail"))[0] == "transformers"
    reader, why = variants.reader_of(manifest("gguf", llamacpp_logits="not_run"))
    assert reader is None and "llamacpp_logits?" in why
    assert "GGUF" in variants.reader_of(manifest("gguf-lora", llamacpp_logits="pass"))[1]


def test_kl_is_what_rounding_costs_where_weights_were_rounded() -> None:
    rounded = manifest("gguf", llamacpp_logits="pass", rounding_logits="pass")
    rounded.parity["checks"][1]["numbers"]["mean_kl"] = 0.25
    assert variants.proven(rounded, "llamacpp")["kl"] == 0.25
    assert variants.proven(manifest("adapter", danlu_logits="pass"), "danlu")["kl"] == 0.5


def test_rows_say_what_was_found_and_dashes_what_was_not() -> None:
    heads, rows = variant_rows(table(row("q8", 2 << 20, 0.75), row("q4", 1 << 20, None, reader=None)), "en", NARROW)
    assert len(heads) == len(NARROW)
    assert rows[0] == ("q8", "2.0 MiB", "0.50 s", "1,234", "3.0 MiB", "0.012", "75% (65–85)")
    assert rows[1] == ("q4", "1.0 MiB", "–", "–", "–", "0.012", "–")
    _, (whole, _) = variant_rows(table(row("q8", 2 << 20, 0.75), row("q4", 1, None)), "en")
    assert whole[-1] == "+1 −0" and "7/8" in whole


def test_a_busy_machine_is_told() -> None:
    calm = table(row("q8", 1, 0.5), row("q4", 1, None))
    assert not is_busy(calm) and "kept this machine busy" not in render_variants(calm, "en")
    calm["variants"][0]["measured"]["others_load"] = 0.9
    assert is_busy(calm) and "kept this machine busy" in render_variants(calm, "en")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_draws_each_variant_and_tells_why_one_is_missing(language: Any) -> None:
    page = render_variants(
        table(row("q8", 2 << 20, 0.75), row("q4", 1 << 20, None, reader=None, why_not="no <program>")), language
    )
    assert page.count("<circle") == 1 and "no &lt;program&gt;" in page
    assert "<circle" not in render_variants(table(row("q4", 1, None)), language), "nothing to draw, and it says so"


def test_a_program_that_dies_is_an_error_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants.sys, "executable", "/bin/false")
    order = Order("danlu", "x", None, "float32", "cpu", 512, 1, None, [], [], 8, "en")
    with pytest.raises(ExportError, match="code 1"):
        variants._run(order, tmp_path, variants.Silent())
