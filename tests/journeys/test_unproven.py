"""A failed proof closes the door: chat refuses the artefact and says why, and opens it only when told to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import danlu

from danlu.core.errors import ExportError
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.exports.adapter import AdapterExport
from danlu.exports.export import Facts, Quiz, export
from danlu.exports.verify import unproven, verify
from tiny_chat import QUESTIONS, tuned_engine, write_base


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proven by transformers and PEFT, held-out questions included."""
    base = write_base(tmp_path_factory.mktemp("base"))
    engine, contract = tuned_engine(base)
    facts = Facts("tiny", {"name": str(base), "digest": engine.model.digest, "dtype": "float32"})
    quiz = [Quiz(Question((Message("user", text),)), lambda text: len(text) % 2 == 0) for text in QUESTIONS]
    folder = tmp_path_factory.mktemp("artifact") / "adapter"
    export(AdapterExport(), engine, folder, contract=contract, facts=facts, quiz=quiz,
           probes=[(Message("user", QUESTIONS[0]),)], max_new_tokens=8)  # fmt: skip
    return folder


@pytest.fixture
def failed(artifact: Path, tmp_path: Path) -> Path:
    """The same, as if PEFT had read something else."""
    folder = tmp_path / "failed"
    folder.mkdir()
    for path in artifact.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tree = json.loads((folder / "artifact.json").read_text())
    for check in tree["parity"]["checks"]:
        if check["name"] == "peft_logits":
            check["verdict"] = "fail"
    tree["parity"]["verdict"] = "fail"
    (folder / "artifact.json").write_text(json.dumps(tree))
    return folder


def test_a_proven_artefact_opens_and_its_card_tells_the_figures(artifact: Path) -> None:
    manifest = verify(artifact)
    assert manifest.parity["verdict"] == "pass" and unproven(manifest) == []
    names = {check["name"] for check in manifest.parity["checks"]}
    assert {"peft_questions", "danlu_questions", "peft_modules", "peft_stops"} <= names
    card = (artifact / "README.md").read_text(encoding="utf-8")
    assert "14 modules: 1 to 1 of each update arrived" in card and "14 个模块：每个更新到位 1 至 1" in card
    assert "nats a token (noise" in card and "4 题中答对" in card
    said = danlu("chat", artifact, "--json", input="出差一天补贴多少?\n")
    assert said.code == 0, said.err


def test_chat_refuses_what_failed_its_proof(failed: Path) -> None:
    said = danlu("chat", failed, "--json", input="出差一天补贴多少?\n")
    assert said.code != 0 and "peft_logits" in said.err + said.out
    assert "--allow-unproven" in said.err + said.out, "the way to look into it is told"


def test_chat_opens_it_when_told_to_and_says_so(failed: Path) -> None:
    said = danlu("chat", failed, "--allow-unproven", input="出差一天补贴多少?\n")
    assert said.code == 0, said.err
    assert "UNPROVEN" in said.err + said.out and "peft_logits" in said.err + said.out


def test_the_door_needs_no_torch(failed: Path) -> None:
    """Serving stands on it, and runs where torch is not."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom danlu.exports.verify import verify\n"
        "from danlu.core.errors import ExportError\n"
        f"try:\n    verify(Path({str(failed)!r}))\nexcept ExportError as error:\n    print(error.key)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "export.parity_failed", done.stderr
    with pytest.raises(ExportError):
        verify(failed)
    assert verify(failed, allow_unproven=True).kind == "adapter"
