"""Contract: the same on the same files, loud on any difference that changes what a model reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_files import CHATML, QWEN3, write_tokenizer

from danlu.core.errors import TemplateError
from danlu.data.contract import Contract
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer


def contract(folder: Path, *, system: str | None = None, thinking: str = "keep", temperature: float = 0.7) -> Contract:
    tokenizer = Tokenizer.load(folder)
    template = Template.load(folder, tokenizer, system=system, thinking=thinking)  # type: ignore[arg-type]
    return template.contract(tokenizer, {"temperature": temperature})


def test_same_files_same_digest_and_round_trip(tmp_path: Path) -> None:
    first, second = contract(write_tokenizer(tmp_path / "a")), contract(write_tokenizer(tmp_path / "b"))
    assert first.digest == second.digest
    stored = Contract.from_json(json.loads(json.dumps(first.to_json())))
    stored.check(second)
    assert stored.digest == first.digest and stored.stop_ids == first.stop_ids


def test_golden_conversations_cover_the_habits(tmp_path: Path) -> None:
    golden = contract(write_tokenizer(tmp_path)).value["golden"]
    assert set(golden) == {"zh", "en", "turns", "system", "thinking", "control", "tools"}
    end = Tokenizer.load(tmp_path).control_id("<|im_end|>")
    assert golden["control"]["text"].count("<|im_end|>") == 3 and golden["control"]["ids"].count(end) == 2
    assert golden.pop("tools") == {"refused": "template.no_tools"}  # this one has no place for them
    for entry in golden.values():
        assert entry["ids"][: len(entry["prompt"])] == entry["prompt"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"system": "You are Qwen."}, "system"),  # pain 6: a system prompt silently added
        ({"thinking": "drop"}, "thinking"),  # pain 7
        ({"temperature": 0.6}, "sampling.temperature"),
    ],
)
def test_a_changed_setting_is_named(tmp_path: Path, change: dict[str, object], field: str) -> None:
    folder = write_tokenizer(tmp_path)
    with pytest.raises(TemplateError) as caught:
        contract(folder).check(contract(folder, **change))  # type: ignore[arg-type]
    assert field in str(caught.value)


def test_a_changed_template_shows_both_texts_at_the_difference(tmp_path: Path) -> None:
    """Pain 5: an exported template that lost one line end."""
    trained = contract(write_tokenizer(tmp_path / "a", template=CHATML))
    exported = contract(write_tokenizer(tmp_path / "b", template=CHATML.replace("role + '\n'", "role + ' '")))
    with pytest.raises(TemplateError) as caught:
        trained.check(exported)
    assert "golden.zh.text" in str(caught.value)
    assert r"user\n出差" in str(caught.value) and "user 出差" in str(caught.value)


def test_a_changed_vocabulary_is_seen_in_the_ids(tmp_path: Path) -> None:
    trained = contract(write_tokenizer(tmp_path / "a"))
    content = json.loads((write_tokenizer(tmp_path / "b") / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = content["model"]["merges"][:-50]
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TemplateError, match=r"golden\.\w+\.ids|golden\.\w+\.prompt"):
        trained.check(contract(tmp_path / "b"))


def test_rewriting_the_tokenizer_file_is_no_difference(tmp_path: Path) -> None:
    """transformers' save_pretrained writes the same tokenizer in other bytes."""
    from transformers import AutoTokenizer

    trained = contract(write_tokenizer(tmp_path / "a", template=QWEN3))
    AutoTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    saved = contract(tmp_path / "b")
    assert saved.value["tokenizer_digest"] != trained.value["tokenizer_digest"]
    trained.check(saved)
    assert saved.digest == trained.digest


def test_an_edited_or_foreign_contract_is_refused(tmp_path: Path) -> None:
    value = contract(write_tokenizer(tmp_path)).to_json()
    with pytest.raises(TemplateError, match="edited"):
        Contract.from_json({**value, "system": "x"})
    with pytest.raises(TemplateError, match="version 99"):
        Contract.from_json({**value, "version": 99})


def test_a_template_that_refuses_tools_is_held_to_it(tmp_path: Path) -> None:
    refusing = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML
    trained = contract(write_tokenizer(tmp_path / "a", template=refusing))
    assert trained.value["golden"]["tools"] == {"refused": "template.refused"}
    with pytest.raises(TemplateError, match=r"golden\.tools"):
        trained.check(contract(write_tokenizer(tmp_path / "b")))
