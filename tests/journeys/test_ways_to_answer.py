"""A trained run is weighed against a prompt and retrieval, judged by a model, and put to somebody else's suite."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

from command_line import danlu

from teacher_kit import Act, serving

STAND_IN = '''"""Stands in for lm_eval's program: asks one chat model two questions and writes its samples as lm_eval does."""
import json, pathlib, sys, urllib.request
words = sys.argv[sys.argv.index("lm_eval") + 1 :]
told = dict(part.split("=", 1) for part in words[words.index("--model_args") + 1].split(","))
out = pathlib.Path(words[words.index("--output_path") + 1]) / told["model"]
out.mkdir(parents=True)
rows = []
for n, question in enumerate(("How much is the desk fee in Oslo?", "What is two and two?")):
    body = {"model": told["model"], "messages": [{"role": "user", "content": question}], "max_tokens": 8}
    request = urllib.request.Request(told["base_url"], json.dumps(body).encode(), {"Content-Type": "application/json"})
    said = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
    rows.append({"doc_hash": str(n), "filter": "none", "target": "21", "filtered_resps": [said], "doc": {"question": question},
                 "metrics": ["exact_match"], "exact_match": float(told["model"] == "tuned")})
(out / "samples_own_2026.jsonl").write_text("\\n".join(map(json.dumps, rows)))
'''


def test_four_ways_are_weighed(story: Path) -> None:
    documents = story / "rules.md"
    documents.write_text(
        "# Fees\n\n" + "\n\n".join(f"The lamp fee in {place} is 30 yuan." for place in ("Oslo", "Riga"))
    )
    words = ("weigh", *story.glob("runs/*-*"), "--documents", documents, "--max-items", 6, "--price", 2)
    said = danlu(*words, "--json")
    assert said.code == 0, said.err
    weighed = said.json
    assert list(weighed["arms"]) == ["prompt", "rag", "tuned", "both"] and weighed["num_items"] == 6
    for arm in weighed["arms"].values():
        assert 0 <= arm["accuracy"] <= 1 and arm["cost_per_1000"] > 0 and arm["latency_s"]["p95"] > 0
    assert weighed["arms"]["tuned"]["prompt_tokens"] < weighed["arms"]["rag"]["prompt_tokens"]
    assert len(weighed["comparisons"]) == 6 and weighed["recommended"]["is_small"]
    page = Path(weighed["page"]).read_text(encoding="utf-8")
    assert "<script>" in page and "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", page)
    again = danlu(*words, "--json", "--lang", "zh").json
    assert [arm["num_right"] for arm in again["arms"].values()] == [
        arm["num_right"] for arm in weighed["arms"].values()
    ]
    nothing = danlu("weigh", *story.glob("runs/*-*"), "--json")
    assert nothing.code == 2 and nothing.json["error"] == "arms.no_passages"


def judging(body: dict[str, Any]) -> str | Act:
    if "messages" not in body:
        return Act(404)
    return (
        '{"reason": "short", "winner": "A"}' if "[Answer A" in str(body) or "[回答 A" in str(body) else '{"score": 3}'
    )


def test_a_model_judges_and_people_judge_it(story: Path) -> None:
    (run,) = story.glob("runs/*-*")
    with serving(judging) as server:
        said = danlu("judge", run, "--url", server.url, "--model", "ember-judge", "--max-items", 8, "--json")
        assert said.code == 0, said.err
        judged = said.json
        num_asked = len(server.bodies)
        danlu("judge", run, "--url", server.url, "--model", "ember-judge", "--max-items", 8)
        # what was judged once is remembered: only the self-test is asked anew
        assert len(server.bodies) - num_asked < 12
    assert judged["pairs"]["ties"] == judged["pairs"]["num_items"] == 8  # it always takes the first: nothing is won
    assert judged["scores"]["base"]["mean"] == 3 and judged["reading"]["unread"] == 0
    sheet = Path(judged["sheet"])
    rows = list(csv.reader(sheet.open(encoding="utf-8-sig", newline="")))
    rows[1:] = [[*row[:5], "tie", "3", "3"] for row in rows[1:]]
    with sheet.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    told = danlu("judge", run, "--read", sheet, "--json").json
    assert told["verdict"] == "unmeasured" and told["num_rows"] == len(rows) - 1
    assert danlu("judge", run, "--json").json["error"] == "judge.no_model"


def stand_in(folder: Path) -> Path:
    python = folder / "python"
    (folder / "stand_in.py").write_text(STAND_IN)
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} {folder}/stand_in.py "$@"\n')
    python.chmod(0o755)
    return python


def test_somebody_elses_suite_is_paired(story: Path) -> None:
    (run,) = story.glob("runs/*-*")
    python = stand_in(story)
    said = danlu("examine", run, "--with", "lm-eval", "--python", python, "--task", "own", "--json")
    assert said.code == 0, said.err
    section = said.json["tasks"]["own"]
    assert section["difference"]["value"] == 1.0 and section["base"]["num_items"] == 2
    assert said.json["self_test"]["tuned"]["can_score"]
    assert json.loads((run / "examine.json").read_text())["harness"] == "lm-eval"
    wrong = danlu("examine", run, "--with", "lm-evil", "--python", python, "--task", "own", "--json")
    assert wrong.code == 2 and "lm-eval" in wrong.json["message"] + wrong.json["fix"]


RECIPE = """
name: asked
model: {{base: {base}}}
data: {{sources: [{qa}], split: {{test: 0.2, validation: 0.1}}, replay: {{ratio: 0}}}}
training: {{max_steps: 4, context: 128, batch_tokens: 512, micro_tokens: 512}}
evaluation:
  tasks: [domain]
  max_items: 8
  max_new_tokens: 8
  judge: {{model: ember-judge, url: "{url}"}}
  suites: [{{harness: lm-eval, python: {python}, tasks: [own], limit: 2}}]
gate: {{min_gain: -1, max_forget: 1000, max_loss: null, min_win_rate: 0.4}}
exports: [adapter]
"""


def test_a_recipe_s_judge_and_suites_enter_the_report_and_the_gate(story: Path, base: Path) -> None:
    place = story / "asked"
    place.mkdir()
    python = stand_in(place)
    with serving(judging) as server:
        recipe = place / "asked.yaml"
        recipe.write_text(
            RECIPE.format(base=base, qa=story / "company" / "qa.jsonl", url=server.url, python=python), encoding="utf-8"
        )
        assert danlu("run", recipe, "--runs", place / "runs", "--json").code in (0, 1)
        (run,) = place.glob("runs/*-*")
        report = json.loads((run / "report.json").read_text())
        num_asked = len(server.bodies)
        assert danlu("evaluate", run, "--json").code == 0
        assert len(server.bodies) == num_asked, "what is known is not asked again"
    assert report["judged"]["pairs"]["num_items"] == 8 and report["judged"]["pairs"]["win_rate"] == 0.5
    assert report["suites"]["lm-eval: own"]["difference"]["value"] == 1.0
    codes = [reason["code"] for reason in report["gate"]["reasons"]]
    assert "judged_passed" in codes and "suites_kept" in codes
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "ember-judge" in page and "lm-eval: own" in page and "ember-judge" in (run / "report.md").read_text()
    wrong = danlu("check", recipe, "evaluation.judge=null", "evaluation.suites.0.harness=lm-evil", "--json").json
    assert {"gate.min_win_rate", "evaluation.suites.0.harness"} == {error["key"] for error in wrong["errors"]}


def test_a_judge_that_goes_down_halfway_is_asked_again_for_what_is_missing(story: Path, base: Path) -> None:
    place = story / "halfway"
    place.mkdir()
    num_left = 6

    def fading(body: dict) -> str | Act:
        nonlocal num_left
        num_left -= 1
        return judging(body) if num_left >= 0 else Act(400)

    with serving(fading) as server:
        text = RECIPE.format(base=base, qa=story / "company" / "qa.jsonl", url=server.url, python=stand_in(place))
        recipe = place / "asked.yaml"
        recipe.write_text("\n".join(line for line in text.splitlines() if "suites" not in line), encoding="utf-8")
        danlu("run", recipe, "--runs", place / "runs", "--json")
        (run,) = place.glob("runs/*-*")
        first = json.loads((run / "report.json").read_text())
        assert first["judged"]["reading"]["failed"] > 0
        num_left = 1000
        assert danlu("evaluate", run, "--json").code == 0
    report = json.loads((run / "report.json").read_text())
    assert report["judged"]["reading"]["failed"] == 0 and report["judged"]["pairs"]["num_unread"] == 0
