"""`danlu compare RUN`: every artefact measured here, what was measured kept, what could not be told with its reason."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import danlu

from danlu.exports.trial import Order, trial
from danlu.run.artifact import Manifest


def test_one_table_of_all_artefacts_measured_once(story: Path) -> None:
    runs = ("--runs", story / "runs")
    (run,) = (story / "runs").glob("tiny-*")
    assert danlu("export", run, "--kind", "merged").code == 0
    kinds = ["adapter", "merged"]
    found = danlu("compare", "tiny", *runs, "-n", 6, "--json").json
    assert sorted(row["name"] for row in found["variants"]) == kinds and found["num_questions"] == 6
    for row in found["variants"]:
        measured = row["measured"]
        assert row["why_not"] == "" and row["reader"] == "danlu"
        assert measured["tokens_per_s"] > 0 and measured["load_s"] > 0 and measured["accuracy"]["num_items"] == 6
        # the report holds what the trained model made of the same questions, and these weights are it
        assert measured["right"] == found["trained"]["right"]
        assert row["kl"] is not None and row["num_equal"] <= row["num_answers"]
    for language, word in (("en", "won, lost"), ("zh", "变对、变错")):
        assert word in (run / f"variants.{language}.html").read_text(encoding="utf-8")

    artifact = run / "artifacts" / kinds[0]
    (artifact / "README.md").write_text("another", encoding="utf-8")
    again = danlu("compare", "tiny", *runs, "-n", 6, "--json").json
    rows = {row["name"]: row for row in again["variants"]}
    assert rows[kinds[0]]["measured"] is None and "README.md" in rows[kinds[0]]["why_not"]
    before = {row["name"]: row["measured"] for row in found["variants"]}
    assert all(rows[name]["measured"] == before[name] for name in kinds[1:]), "measured once"


def test_the_trial_answers_as_the_manifest_says(story: Path, base: Path) -> None:
    (folder,) = (story / "runs").glob("tiny-*/artifacts/adapter")
    manifest = Manifest.read(folder)
    prompts = [list(canary.prompt_ids) for canary in manifest.canaries]
    dtype = manifest.parity["living_dtype"]
    order = Order("danlu", str(folder), str(base), dtype, "cpu", 512, 1, None, prompts, prompts, 24, "en")
    *steps, found = trial(Order(**json.loads(json.dumps(order.to_json()))))
    assert len(steps) == len(prompts)
    assert [tuple(ids) for ids in found["answers"]] == [canary.answer_ids for canary in manifest.canaries]
    assert found["num_timed_tokens"] == sum(len(canary.answer_ids) for canary in manifest.canaries)


def test_a_file_that_its_program_refuses_is_a_row_with_a_reason(story: Path) -> None:
    (folder,) = (story / "runs").glob("tiny-*/artifacts/adapter")
    manifest = Manifest.read(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"{}")
    manifest.write(folder)  # sealed as it is: only the program can tell
    found = danlu("compare", "tiny", "--runs", story / "runs", "-n", 2, "--json").json
    (row,) = found["variants"]
    assert row["measured"] is None and "adapter_model.safetensors" in row["why_not"]


def test_what_cannot_be_compared_is_refused(story: Path) -> None:
    runs = ("--runs", story / "runs")
    said = danlu("compare", "tiny", "tiny", *runs, "-n", 3)
    assert said.code != 0 and "-n" in said.err
    (run,) = (story / "runs").glob("tiny-*")
    (run / "artifacts").rename(run / "elsewhere")
    said = danlu("compare", "tiny", *runs)
    assert said.code != 0 and "danlu export" in said.err
