"""Help and usage errors speak the reader's language, fit the terminal, and end scripts with JSON."""

import json
import os
import re
import subprocess
import sys

import pytest

from danlu.cli.ending import Verbs
from danlu.cli.habits import COMMANDS
from danlu.cli.lines import cells, described, wrapped
from danlu.cli.main import app

HAN = re.compile(r"[\u4e00-\u9fff]")


def danlu(*words: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    env = {"LANG": "C.UTF-8", "PATH": os.environ["PATH"], "COLUMNS": str(columns)}
    return subprocess.run([sys.executable, "-m", "danlu", *words], capture_output=True, text=True, env=env)


def test_every_command_stands_in_one_chapter() -> None:
    known = [info.name or info.callback.__name__.rstrip("_") for info in app.registered_commands]  # type: ignore[union-attr]
    known += [str(info.name) for info in app.registered_groups]
    told = [name for names in Verbs.chapters.values() for name in names]
    assert sorted(told) == sorted(known)


@pytest.mark.parametrize("words", [[], ["-h"], ["run", "-h"], ["keys", "create", "-h"], ["registry"]], ids=" ".join)
def test_help_is_of_one_language_and_no_line_is_wider_than_the_terminal(words: list[str]) -> None:
    for columns in (60, 80):
        told = danlu("--lang", "zh", *words, columns=columns).stdout
        assert HAN.search(told)
        assert not re.search(r"Usage|Options:|Commands:|Show this|required|default|<str>|\.\.\.$", told, re.M)
        assert max(map(cells, told.splitlines())) <= columns


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["inspekt"], "danlu inspect"), (["inspect"], "PATH"), (["inspect", "x", "--sample", "3"], "--samples"),
        (["inspect", "x", "--samples", "many"], "整数"), (["inspect", "x", "--samples", "-1"], "0"),
        (["inspect", "--samples"], "danlu inspect -h"), (["runs", "a", "b"], "a b"), (["registry", "ls"], "danlu registry list"),
        (["examine", "x"], "--with SUITE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_slip_is_told_in_the_readers_language_with_the_way_out(words: list[str], named: str) -> None:
    said = danlu("--lang", "zh", *words)
    assert said.returncode == 2 and named in said.stderr and not said.stdout
    assert all(HAN.search(line) for line in said.stderr.splitlines()) and "  → " in said.stderr


def test_a_slip_of_a_script_is_json_too() -> None:
    said = danlu("inspect", "--json")
    assert json.loads(said.stdout)["error"] == "help.missing" and said.returncode == 2


def test_lines_are_measured_in_cells_and_keep_punctuation_beside_its_word() -> None:
    lines = wrapped("把断网机器提供服务所需的一切装进一个目录：模型、安装包、部署文件、校验和。", 20)
    assert max(map(cells, lines)) <= 22 and not any(line[0] in "，。、：" for line in lines)
    assert "".join(lines) == "把断网机器提供服务所需的一切装进一个目录：模型、安装包、部署文件、校验和。"
    assert wrapped("a word-that-is-wider-than-ten b", 10) == ["a", "word-that-is-wider-than-ten", "b"]
    assert (
        described([("a", "one two three four five six seven"), ("名", "二")], 20).splitlines()[0]
        == "  a   one two three four"
    )


def test_a_knobs_key_is_never_folded_on_a_narrow_screen() -> None:
    told = danlu("--lang", "zh", "explain", columns=60).stdout
    assert "data.documents.ocr_command" in told and max(map(cells, told.splitlines())) <= 60


def test_ctrl_c_while_it_loads_is_no_traceback() -> None:
    """The first moments are imports; whoever changed their mind then got thirty lines of them."""
    code = (
        "import sys\nclass Impatient:\n    def find_spec(self, name, *where):\n"
        "        if name == 'danlu.cli.main':\n            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\nimport danlu.__main__\ndanlu.__main__.main()\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (130, "")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["finetune", "r.yaml"], "danlu train"), (["init"], "danlu new"), (["infer"], "danlu chat"),
        (["merge-lora"], "danlu export"), (["registry", "init"], "danlu registry -h"),
        (["train", "r.yaml", "--epochs", "3"], "training.epochs=VALUE"),
        (["run", "r.yaml", "--learning-rate", "1e-4"], "training.lr=VALUE"),
        (["train", "r.yaml", "--adapter.rank", "8"], "adapter.rank=VALUE"), (["doctor", "--epochs"], "danlu doctor -h"),
        (["explain", "nothing_like_it"], "`danlu explain` lists them all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_habits_are_answered_with_danlus_word(words: list[str], named: str) -> None:
    said = danlu(*words)
    assert said.returncode == 2 and named in said.stderr and not said.stdout


def test_every_habit_names_a_command_and_hides_none() -> None:
    known = {name for names in Verbs.chapters.values() for name in names}
    assert set(COMMANDS.values()) <= known and not known & set(COMMANDS)


def test_help_may_be_asked_for_in_words() -> None:
    for asked, page in ((["help"], ["-h"]), (["help", "train"], ["train", "-h"]), (["keys", "help"], ["keys", "-h"])):
        said, meant = danlu(*asked), danlu(*page)
        assert (said.returncode, said.stdout, said.stderr) == (0, meant.stdout, "")


def test_a_knob_is_explained_by_its_last_name_where_only_one_has_it() -> None:
    assert danlu("explain", "rank").stdout == danlu("explain", "adapter.rank").stdout != ""
    assert danlu("explain", "kind").returncode == 2  # method.kind, adapter.kind, exports.kind, …
