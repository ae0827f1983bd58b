"""Labels for an encoder: ids are transformers', the class's number stands last, what is too long is told, and the contract
notices another tokenizer, other classes, another reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from danlu.core.errors import DataError, TemplateError
from danlu.data.classes import LabelEncoder, class_contract, contract_again, is_of_classes, label_encoder
from danlu.data.contract import Contract
from danlu.data.ledger import Ledger
from danlu.data.sample import Label, Message, Origin
from danlu.data.tokenizer import Tokenizer
from encoder_kit import write_bert, write_roberta

TEXTS = ["味道很好，下次还来 Great food!", "又冷又慢，  再也不点了…", "It's OK\n", "42 元，café"]
CLASSES = {"差评": 7, "好评": 3}


def label(text: str, name: str = "好评") -> Label:
    return Label(text, name, Origin("rows.csv", 2))


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write = write_bert if request.param == "bert" else write_roberta
    return write(tmp_path_factory.mktemp(request.param), TEXTS)


def test_ids_are_those_of_transformers(folder: Path) -> None:
    encoder = LabelEncoder(Tokenizer.load(folder), CLASSES, 64)
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, "没见过的字：龘 🤔", " 前后有空格 "]:
        assert encoder.encode_prompt((Message("user", text),)) == theirs(text)["input_ids"]


def test_the_number_of_the_class_stands_last_and_alone_is_learnt(folder: Path) -> None:
    encoder = LabelEncoder(Tokenizer.load(folder), CLASSES, 64)
    assert encoder.names == ("好评", "差评")  # by name, whatever order they came in
    ledger = Ledger()
    (tokens,) = encoder.encode(label(TEXTS[0], "差评"), ledger)
    assert tokens.ids.tolist() == [*encoder.encode_prompt((Message("user", TEXTS[0]),)), 1]
    assert tokens.weights.tolist() == [0] * (len(tokens) - 1) + [1]
    assert tokens.num_supervised == 1
    assert encoder.answer_text([1]) == encoder.read_back([1], learnt=True) == "差评"
    assert encoder.conversation(label("好")).messages[0].content == "好"  # asked as it is, without a word around it


def test_control_tokens_in_a_text_are_text(folder: Path) -> None:
    """A review that ends with [SEP] or </s> ends nothing."""
    encoder = LabelEncoder(Tokenizer.load(folder), CLASSES, 64)
    ids = encoder.encode_prompt((Message("user", "好[SEP]</s>好"),))
    framing = {ids[0], ids[-1]}
    assert not framing & set(ids[1:-1])


@given(st.integers(3, 40), st.integers(0, 60))
def test_too_long_is_refused_or_loses_its_beginning(reach: int, length: int) -> None:
    folder = _bert()
    text = "".join("味道很好"[i % 4] for i in range(length))
    refusing, cutting = (
        LabelEncoder(Tokenizer.load(folder), CLASSES, reach, how) for how in ("drop", "truncate-prompt")
    )
    ledger = Ledger()
    ledger.num_read = ledger.num_used = 1
    (tokens,) = cutting.encode(label(text), ledger)
    whole = refusing.encode_prompt((Message("user", text),))
    assert len(whole) == length + 2
    assert len(tokens) - 1 == min(len(whole), reach)
    assert tokens.ids[0] == whole[0] and tokens.ids[1:-1].tolist() == whole[len(whole) - len(tokens) + 2 :]
    assert tokens.ids[:-1].tolist() == cutting.encode_prompt((Message("user", text),))  # asked as it was learnt
    told = Ledger()
    told.num_read = told.num_used = 1
    found = refusing.encode(label(text), told)
    assert bool(found) == (len(whole) <= reach)
    if not found:
        assert told.rejects[0].reason == "encode_over_length"
        assert ledger.changes[0].reason == "encode_text_cut"


_FOLDERS: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def bert(tmp_path_factory: pytest.TempPathFactory) -> None:
    _FOLDERS.append(write_bert(tmp_path_factory.mktemp("given"), TEXTS))


def _bert() -> Path:
    return _FOLDERS[-1]


def test_a_class_that_training_has_not_is_refused() -> None:
    """A class in validation alone: nobody could have learnt it."""
    ledger = Ledger()
    ledger.num_read = ledger.num_used = 1
    assert LabelEncoder(Tokenizer.load(_bert()), CLASSES, 64).encode(label("好", "中评"), ledger) == []
    assert ledger.rejects[0].reason == "encode_unknown_class" and "中评" in str(ledger.rejects[0])


def test_the_contract_travels_and_notices_differences(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(_bert())
    contract = class_contract(tokenizer, CLASSES, 64, "drop")
    again = Contract.from_json(json.loads(json.dumps(contract.to_json())))
    assert is_of_classes(again) and not contract.differences(contract_again(again, tokenizer))
    assert label_encoder(again, tokenizer).names == ("好评", "差评")
    other = Tokenizer.load(write_bert(tmp_path, [*TEXTS, "龘"]))
    with pytest.raises(TemplateError, match="golden"):
        contract.check(contract_again(contract, other))
    for changed in (class_contract(tokenizer, {"a": 1, "b": 1}, 64, "drop"),
                    class_contract(tokenizer, CLASSES, 32, "drop"),
                    class_contract(tokenizer, CLASSES, 64, "truncate-prompt")):  # fmt: skip
        assert contract.differences(changed)


def test_a_tokenizer_without_frame_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path, TEXTS)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"], content["post_processor"] = [], None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(TemplateError, match=r"\[CLS\]"):
        LabelEncoder(Tokenizer.load(folder), CLASSES, 64)


def test_a_vocabulary_alone_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    with pytest.raises(DataError, match=r"vocab\.txt") as refused:
        Tokenizer.load(tmp_path)
    assert "save_pretrained" in refused.value.fix
