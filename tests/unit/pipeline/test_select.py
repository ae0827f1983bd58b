"""danlu select from a recipe to the files of the labelling tools and back; the model in the loop is a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from danlu.core.errors import DataError, RunError
from danlu.data.labelling import label_studio
from danlu.data.ledger import Ledger
from danlu.data.sample import Label
from danlu.data.sources import read
from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Question, Sampling, Score
from danlu.pipeline.read_labels import read_labels
from danlu.pipeline.select import select
from danlu.recipe.data import DataSection, SourceSection
from danlu.recipe.privacy import PrivacySection
from danlu.recipe.recipe import Recipe
from danlu.run.run import Run

GOOD = [f"第{n}次来，菜很好吃，服务热情周到" for n in range(40)]
BAD = [f"等了{n}个小时才上菜，态度很差" for n in range(40)]


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A recipe with eight labelled reviews."""
    rows = [{"text": text, "label": "好"} for text in GOOD[:4]] + [{"text": text, "label": "差"} for text in BAD[:4]]
    return make(tmp_path, write(tmp_path / "labelled.jsonl", rows))


def make(tmp_path: Path, source: Path) -> Run:
    privacy = PrivacySection(key_file=str(tmp_path / "keys"))
    data = DataSection(sources=(SourceSection(path=str(source)),), privacy=privacy)
    return Run.create(Recipe(name="reviews", data=data), tmp_path / "runs")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write(tmp_path / "pool.jsonl", [{"text": text} for text in [*GOOD, *BAD]])


class Wavering:
    """Always says the same of questions about dates, and something else each time of the others."""

    name, digest = "wavering", "-"

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        asked = [question.messages[-1].content for question in questions]
        return [Answer("五月一日" if "日期" in text else "甲乙丙丁戊己庚"[sampling.seed] * 9, "stop") for text in asked]

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        raise NotImplementedError

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        raise NotImplementedError


def test_the_classifier_chooses_and_the_files_are_whole(run: Run, pool: Path) -> None:
    pytest.importorskip("sklearn", reason="the plain classifier needs scikit-learn (extra select)")
    selection = select(run, 12, pool=[pool])
    assert selection.by == "classifier" and len(selection.tasks) == 12
    assert selection.num_pool == 72, "what is labelled already is not asked again"
    tasks = label_studio.read_tasks(json.loads((selection.folder / "label_studio.json").read_text("utf-8")))
    assert tuple(tasks) == selection.tasks and tasks[0].choices == ("好", "差")
    assert all(task.suggestion is not None and task.why["batch"] == 1 for task in tasks)
    assert len((selection.folder / "superannotate.jsonl").read_text("utf-8").splitlines()) == 12
    assert '<Choice value="好"/>' in (selection.folder / "label_studio.xml").read_text("utf-8")
    for page in selection.pages.values():
        assert "<!doctype html>" in page.read_text("utf-8")
    told = json.loads((selection.folder / "selection.json").read_text("utf-8"))
    assert told["chosen"] == 12 and told["by"] == "classifier"


def test_the_same_question_gives_the_same_choice(run: Run, pool: Path) -> None:
    first = select(run, 10, by="spread", pool=[pool])
    assert select(run, 10, by="spread", pool=[pool]).tasks == first.tasks


def test_what_comes_back_is_a_source_and_is_not_asked_again(run: Run, pool: Path, tmp_path: Path) -> None:
    selection = select(run, 6, by="spread", pool=[pool])
    written = json.loads((selection.folder / "label_studio.json").read_text("utf-8"))
    for number, task in enumerate(written):
        said = label_studio.result("好" if number % 2 else "差", is_choice=True, id="r")
        task["annotations"] = [{"result": [said], "completed_by": 1, "was_cancelled": number == 5}]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(written), encoding="utf-8")
    found = read_labels(run, [export])
    assert (found.num_rows, found.num_read) == (5, 6)
    ledger = Ledger()
    rows = list(read([found.path], ledger))
    assert len(rows) == 5 and not ledger.rejects
    assert all(isinstance(row, Label) and row.tags["made_by"] == "human" for row in rows)
    again = select(run, 60, by="spread", pool=[pool])
    labelled = {row.text for row in rows if isinstance(row, Label)}
    assert again.num_labelled == 8 + 5 and labelled.isdisjoint(task.text for task in again.tasks)
    assert read_labels(run, [export]).num_rows == 5, "reading twice makes no row twice"


def test_labels_that_are_wrong_come_first(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the plain classifier needs scikit-learn (extra select)")
    rows = [{"text": text, "label": "好"} for text in GOOD] + [{"text": text, "label": "差"} for text in BAD]
    rows[3]["label"], rows[50]["label"] = "差", "好"
    selection = select(make(tmp_path, write(tmp_path / "all.jsonl", rows)), 10)
    assert selection.by == "errors"
    assert {task.text for task in selection.tasks} == {GOOD[3], BAD[10]}
    told = {task.text: (task.why["given"], task.suggestion.value) for task in selection.tasks if task.suggestion}
    assert told == {GOOD[3]: ("差", "好"), BAD[10]: ("好", "差")}


def test_a_corrected_label_replaces_the_old_one(tmp_path: Path) -> None:
    """Beside the old row the new one would only contradict it."""
    pytest.importorskip("sklearn", reason="the plain classifier needs scikit-learn (extra select)")
    rows = [{"text": text, "label": "好"} for text in GOOD] + [{"text": text, "label": "差"} for text in BAD]
    rows[3]["label"], rows[50]["label"] = "差", "好"
    run = make(tmp_path, write(tmp_path / "all.jsonl", rows))
    selection = select(run, 10)
    written = json.loads((selection.folder / "label_studio.json").read_text("utf-8"))
    for task in written:
        task["annotations"] = [{"result": [label_studio.result("好", is_choice=True, id="r")]}]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(written), encoding="utf-8")
    found = read_labels(run, [export])
    assert found.num_corrected == 1 and found.corrected is not None, "one was wrong, the other person disagrees with us"
    corrected = {row.text: row.label for row in read([found.corrected], Ledger()) if isinstance(row, Label)}
    assert len(corrected) == 80 and corrected[GOOD[3]] == "好" and corrected[BAD[10]] == "好"
    assert corrected[GOOD[0]] == "好" and corrected[BAD[0]] == "差"


def test_questions_on_which_the_model_wavers_are_chosen(tmp_path: Path) -> None:
    topics = "报销 年假 食堂 班车 门禁 打印 会议室 停车 体检 培训".split()
    asked = [f"放假日期怎么定，{topic}呢？" for topic in topics] + [f"{topic}找谁办理？" for topic in topics]
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "见制度。"}]}
        for text in asked
    ]
    selection = select(
        make(tmp_path, write(tmp_path / "qa.jsonl", rows)), 8, by="answers", engine=Wavering(), repeats=3
    )
    assert all("日期" not in task.text for task in selection.tasks)
    assert not selection.tasks[0].choices and selection.tasks[0].turns[0][0] == "user"
    assert "TextArea" in (selection.folder / "label_studio.xml").read_text("utf-8")


def test_given_scores_decide(run: Run, pool: Path, tmp_path: Path) -> None:
    scores = write(
        tmp_path / "scores.jsonl",
        [{"text": GOOD[20], "score": 9}, {"text": BAD[20], "score": 7}, {"text": BAD[21], "score": 1}],
    )
    selection = select(run, 2, pool=[pool], scores=scores)
    assert selection.by == "scores" and {task.text for task in selection.tasks} == {GOOD[20], BAD[20]}


def test_functions_label_what_they_can_and_show_what_they_cannot(run: Run, pool: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "- {name: praise, label: 好, words: [热情]}\n- {name: late, label: 差, pattern: 等了1.个小时}\n", "utf-8"
    )
    selection = select(run, 10, pool=[pool], functions=rules)
    assert selection.by == "functions" and selection.weak is not None
    assert all(task.suggestion is None for task in selection.tasks), "rows on which every rule is silent come first"
    rows = list(read([selection.folder / "weak_labels.jsonl"], Ledger()))
    assert {row.label for row in rows if isinstance(row, Label)} == {"好", "差"}
    assert all(row.tags["made_by"] == "functions" for row in rows) and len(rows) == 36 + 10


@pytest.mark.parametrize(
    ("way", "key"),
    [("functions", "select.needs_file"), ("scores", "select.needs_file"), ("answers", "select.not_trained")],
)
def test_what_a_way_lacks_is_said(run: Run, pool: Path, way: str, key: str) -> None:
    with pytest.raises((DataError, RunError)) as failed:
        select(run, 3, by=way, pool=[pool])  # type: ignore[arg-type]
    assert failed.value.key == key and failed.value.fix


@pytest.mark.parametrize("line", ["{", '{"score": 1}', '{"id": "x"}', '{"id": "x", "score": "many"}', "[1]", "3"])
def test_a_line_of_scores_that_is_none_is_named(run: Run, pool: Path, tmp_path: Path, line: str) -> None:
    scores = tmp_path / "scores.jsonl"
    scores.write_text(f'{{"text": "{GOOD[20]}", "score": 1}}\n{line}\n', "utf-8")
    with pytest.raises(DataError) as failed:
        select(run, 3, pool=[pool], scores=scores)
    assert failed.value.key == "select.bad_score" and failed.value.where.endswith(":2")


def test_without_scikit_learn_the_extra_is_named(run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sklearn", "scipy")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(DataError) as failed:
        select(run, 3, by="classifier", pool=[pool])
    assert failed.value.key == "select.no_sklearn" and "danlu[select]" in failed.value.fix


def test_what_training_would_not_see_is_not_shown_to_whoever_labels(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"text": f"第{n}位顾客的身份证是11010519491231002X"} for n in range(4)])
    data = DataSection(
        sources=(SourceSection(path=str(source)),), privacy=PrivacySection(key_file=str(tmp_path / "keys"))
    )
    selection = select(Run.create(Recipe(name="r", data=data), tmp_path / "runs"), 3, by="spread")
    assert len(selection.tasks) == 3
    for path in selection.folder.iterdir():
        assert "11010519491231002X" not in path.read_text("utf-8"), path.name


def test_rows_of_the_pool_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"text": f"第{n}位顾客说很好"} for n in range(4)])
    pool = write(tmp_path / "pool.jsonl", [{"text": f"第{n}条全新的评价，{'好坏' * n}"} for n in range(5)])
    pool.write_text(pool.read_text("utf-8") + '{"text": "电话13812345678\n', "utf-8")
    data = DataSection(
        sources=(SourceSection(path=str(source)),), privacy=PrivacySection(key_file=str(tmp_path / "keys"))
    )
    selection = select(Run.create(Recipe(name="r", data=data), tmp_path / "runs"), 3, by="spread", pool=[pool])
    assert selection.num_pool == 5 and selection.refused == {"json_cut": 1}
    told = (selection.folder / "pool_rejects.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["line"] for line in told] == [6] and "13812345678" not in told[0]
