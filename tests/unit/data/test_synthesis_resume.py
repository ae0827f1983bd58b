"""Synthesis that is killed, or given one document more: what was answered is not asked again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from synthesis_kit import GOOD, PLANTED, RULES, Kitchen, fifty, saying

from teacher_kit import asked, document, items, serving
from waiting_kit import PATIENCE_S

CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from teacher_kit import READING, SILENT, AnswerCache, Endpoint, RemoteTeacher, document
from danlu.data.ledger import Ledger
from danlu.data.samples_file import write_samples
from danlu.data.synthesis import synthesise
from danlu.recipe.synthesis import SynthesisSection
folder = Path({folder!r})
rules = Path({rules!r}).read_text(encoding="utf-8")
documents = [document(rules.replace("休假办法", f"休假办法{{n}}"), name=f"{{n}}.md") for n in range(6)]
teacher = RemoteTeacher(Endpoint(url={url!r}, model="teacher", num_parallel=2, backoff_s=0.01), AnswerCache(folder / "cache"))
section = SynthesisSection(questions=4, paraphrases=1, min_quality=4, instructions=10)
made = synthesise(documents, [], section, teacher, folder, Ledger(), SILENT, reading=READING)
write_samples(folder / "made.jsonl", made)
"""


def whole_script(body: dict[str, Any]) -> str:
    kind, user = asked(body), body["messages"][-1]["content"]
    if kind == "questions":
        return items(*GOOD, PLANTED["figure"])
    if kind == "paraphrase":
        question = user.rsplit("\n", 1)[-1]
        return json.dumps({"questions": [f"请问{question}"]}, ensure_ascii=False)
    if kind == "judge":
        quote = re.search(r"\n(员工满|病假须|婚假为|年假由)[^\n]*", user)
        return json.dumps(
            {"score": 5 if body.get("seed", 0) % 2 else 4, "quote": quote[0].strip() if quote else ""},
            ensure_ascii=False,
        )
    return fifty(body) if kind == "instruct" else '{"answer": null}'


class Halting:
    """`whole_script` until so many were asked; then nobody is answered until the one who asks was killed."""

    def __init__(self, bodies: list[Any], target: int) -> None:
        self.bodies, self.target = bodies, target
        self.is_reached, self.is_killed = threading.Event(), threading.Event()

    def __call__(self, body: dict[str, Any]) -> str:
        if len(self.bodies) >= self.target:
            self.is_reached.set()
            self.is_killed.wait(PATIENCE_S)
        return whole_script(body)


def test_killed_in_the_middle_and_started_again_gives_the_same(tmp_path: Path) -> None:
    """SIGKILL twice, at any place; nothing answered is asked again, and the samples are those of one piece."""
    rules = tmp_path / "rules.md"
    rules.write_text(RULES, encoding="utf-8")
    tests = str(Path(__file__).parents[2])

    def child(folder: Path, url: str) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        code = CHILD.format(tests=tests, folder=str(folder), rules=str(rules), url=url)
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)

    with serving(whole_script) as server:
        for target in (4, 30):
            server.script = halting = Halting(server.bodies, target)
            running = child(tmp_path / "killed", server.url)
            assert halting.is_reached.wait(PATIENCE_S)
            running.kill()
            running.communicate()
            halting.is_killed.set()
            assert not (tmp_path / "killed" / "made.jsonl").exists(), "killed too late to show anything"
        server.script = whole_script
        done = child(tmp_path / "killed", server.url)
        _, error = done.communicate(timeout=PATIENCE_S)
        assert done.returncode == 0, error.decode()
        num_killed = len(server.bodies)
        server.bodies.clear()
        whole = child(tmp_path / "whole", server.url)
        whole.communicate(timeout=PATIENCE_S)
        num_whole = len(server.bodies)
    killed, one_piece = ((tmp_path / name / "made.jsonl").read_bytes() for name in ("killed", "whole"))
    assert killed == one_piece and killed.count(b"\n") > 40
    assert num_killed <= num_whole + 4, "at most what was under way is asked twice"


def test_a_new_document_changes_no_other_request(tmp_path: Path) -> None:
    documents = [document(RULES.replace("休假办法", f"休假办法{n}"), name=f"{n}.md") for n in range(5)]
    with serving(saying(*GOOD)) as server:
        kitchen = Kitchen(tmp_path, server)
        kitchen.make(*documents[:4], questions=3)
        num_before = len(server.bodies)
        kitchen.make(documents[4], *documents[:4], questions=3)
        assert (num_before, len(server.bodies)) == (4, 5)
