"""Encoders against transformers on random small models: hidden states, logits, gradients, saving, packing.

Oracle: transformers' BertModel and …ForSequenceClassification with eager attention, dropout 0, in fp64: 1e-10 forward, 1e-9
backward, so a wrong place, norm or bias cannot hide.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from danlu.core.errors import ModelError
from danlu.model.build import load_model, load_state, save_model
from danlu.model.classifier import Classifier
from danlu.ops.attention import Bounds, bidirectional_attention

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
NAMES = {"0": "坏", "1": "好", "2": "一般"}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", {}),
    "bert, other activation": ("BertConfig", "BertForSequenceClassification", {"hidden_act": "gelu_new"}),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-r": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification", {"type_vocab_size": 1, "pad_token_id": 1}),
}
TEXTS = [[2, 17, 33, 5, 3], [2, 3], [2, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 3], [2, 9, 9, 3]]


def oracle(case: str, *, kind: str = "") -> Any:
    """A random model of transformers, in fp64; weights are spread out, so that each of them shows."""
    config_name, model_name, further = CASES[case]
    config = getattr(transformers, config_name)(
        **SIZES | further, id2label={int(key): name for key, name in NAMES.items()}, attn_implementation="eager"
    )
    torch.manual_seed(5)
    model = getattr(transformers, kind or model_name)(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


def ours(folder: Path, **given: Any) -> Classifier:
    model = load_model(folder, dtype=torch.float64, **given)
    assert isinstance(model, Classifier)
    return model


def packed(texts: list[list[int]]) -> tuple[Tensor, Bounds]:
    return torch.tensor([token for text in texts for token in text]), Bounds.of([len(text) for text in texts])


def logits(model: Classifier, texts: list[list[int]]) -> Tensor:
    ids_T, bounds = packed(texts)
    return model.logits(model.firsts(ids_T, bounds))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs = oracle(case)
    theirs.save_pretrained(tmp_path)
    model = ours(tmp_path)
    assert model.classes == ("坏", "好", "一般")  # as the checkpoint has them
    targets = torch.tensor([1, 0, 2, 1])
    expected = torch.cat([theirs(input_ids=torch.tensor([text])).logits for text in TEXTS])
    found = logits(model, TEXTS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.nn.functional.cross_entropy(expected, targets, reduction="sum").backward()
    ids_T, bounds = packed(TEXTS)
    model.loss(model.firsts(ids_T, bounds), targets).backward()
    their_gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    save_model(model, tmp_path / "saved", torch.float64)
    names = set(load_file(tmp_path / "saved" / "model.safetensors"))
    assert names == set(their_gradients)  # what we write bears their names
    prefix = theirs.base_model_prefix
    for name, weight in model.named_parameters():
        their_name = name.replace("bert.", f"{prefix}.", 1)
        if prefix != "bert":
            their_name = their_name.replace(f"{prefix}.pooler.dense", "classifier.dense")
            their_name = (
                "classifier.out_proj." + name.rpartition(".")[2] if name.startswith("classifier") else their_name
            )
        torch.testing.assert_close(weight.grad, their_gradients[their_name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_hidden_states_of_a_bare_encoder(case: str, tmp_path: Path) -> None:
    """A base as hubs have it: no head, no prefix; RoBERTa's has no layer before the head either, which is drawn."""
    theirs = oracle(case, kind="BertModel" if case == "bert" else "RobertaModel")
    theirs.save_pretrained(tmp_path)
    model = ours(tmp_path, seed=3)
    ids_T, bounds = packed(TEXTS)
    expected = torch.cat([theirs(input_ids=torch.tensor([text])).last_hidden_state[0] for text in TEXTS])
    torch.testing.assert_close(model.hidden(ids_T, bounds.positions(), bounds), expected, rtol=0, atol=1e-10)
    same, other = ours(tmp_path, seed=3), ours(tmp_path, seed=4)
    pooler = "bert.pooler.dense.weight"
    assert torch.equal(model.get_parameter(pooler), same.get_parameter(pooler))
    assert torch.equal(model.get_parameter(pooler), other.get_parameter(pooler)) == (case == "bert")
    assert model.begun == (() if case == "bert" else ("bert.pooler.dense",)), "so that it can be told"


def test_a_masked_language_model_is_a_base(tmp_path: Path) -> None:
    """As published encoders often lie: with the head they were pretrained with, and without a pooler."""
    oracle("bert", kind="BertForMaskedLM").save_pretrained(tmp_path)
    model = ours(tmp_path)
    assert model.classes == () and "cls." not in " ".join(name for name, _ in model.named_parameters())


def test_norms_under_their_old_names_are_read(tmp_path: Path) -> None:
    """The first checkpoints say gamma and beta."""
    oracle("bert").save_pretrained(tmp_path)
    expected = logits(ours(tmp_path), TEXTS)
    path = tmp_path / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(path).items()
    }
    assert any(name.endswith("gamma") for name in old)
    save_file(old, path, metadata={"format": "pt"})
    assert torch.equal(logits(ours(tmp_path), TEXTS), expected)


def test_a_text_packed_with_others_is_the_text_alone(tmp_path: Path) -> None:
    oracle("bert").save_pretrained(tmp_path)
    model = ours(tmp_path)
    alone = torch.cat([logits(model, [text]) for text in TEXTS])
    torch.testing.assert_close(logits(model, TEXTS), alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits(model, TEXTS[::-1]).flip(0), alone, rtol=0, atol=1e-12)


def test_what_is_written_is_read_by_both(tmp_path: Path) -> None:
    """A new head: transformers finds its classes by name, and says the same."""
    oracle("roberta", kind="RobertaModel").save_pretrained(tmp_path / "base")
    model = ours(tmp_path / "base")
    model.tell({"差评": 1, "好评": 3})
    torch.nn.init.normal_(model.classifier.weight)
    save_model(model, tmp_path / "new", torch.float64)
    theirs, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "new", dtype=torch.float64, output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert theirs.config.id2label == {0: "好评", 1: "差评"}
    expected = torch.cat([theirs(input_ids=torch.tensor([text])).logits for text in TEXTS])
    torch.testing.assert_close(logits(model, TEXTS), expected, rtol=0, atol=1e-10)
    again = ours(tmp_path / "new")
    again.tell({"好评": 9, "差评": 9})  # it knows them: its head is kept
    assert torch.equal(logits(again, TEXTS), logits(model, TEXTS))
    other = ours(tmp_path / "base")
    other.tell({"差评": 1, "好评": 1})
    load_state(other, tmp_path / "new")
    torch.testing.assert_close(logits(other, TEXTS), logits(model, TEXTS), rtol=0, atol=0)


def test_a_head_that_knows_the_classes_is_kept_whatever_their_order(tmp_path: Path) -> None:
    """The checkpoint has 坏, 好, 一般; here they stand by name."""
    oracle("bert").save_pretrained(tmp_path)
    model, told = ours(tmp_path), {"坏": 5, "好": 3, "一般": 1}
    before, known = logits(model, TEXTS), model.classes
    model.tell(told)
    assert model.classes == tuple(sorted(told)) != known and not model.begun
    assert torch.equal(logits(model, TEXTS), before[:, [known.index(name) for name in model.classes]])
    assert model.config["id2label"] == {str(number): name for number, name in enumerate(sorted(told))}
    model.tell({"新": 1, "旧": 1})
    assert model.begun == ("classifier",) and model.replaced == tuple(sorted(told))


@pytest.mark.parametrize("names", [["a", "b"], {"first": "a"}], ids=str)
def test_classes_without_numbers_are_refused(names: Any, tmp_path: Path) -> None:
    config = {"model_type": "bert", **SIZES, "architectures": ["BertForSequenceClassification"], "id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="id2label"):
        load_model(tmp_path, init="random")


def test_a_new_head_answers_the_most_frequent_class(tmp_path: Path) -> None:
    oracle("bert", kind="BertModel").save_pretrained(tmp_path)
    model = ours(tmp_path)
    model.tell({"b": 6, "a": 3, "c": 1})
    expected = torch.tensor([[0.3, 0.6, 0.1]], dtype=torch.float64).expand(len(TEXTS), 3)
    torch.testing.assert_close(logits(model, TEXTS).softmax(-1), expected, rtol=0, atol=1e-12)


def test_attention_sees_the_whole_text_and_no_other() -> None:
    """Written out, text by text; rows of unlike lengths share groups, and one group has nothing to pad."""
    torch.manual_seed(0)
    for lengths in ([3, 70, 5, 1, 130], [4, 4, 4]):
        bounds = Bounds.of(lengths)
        q, k, v = (torch.randn(sum(lengths), 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
        parts = zip(*(torch.split(x, lengths) for x in (q, k, v)), strict=True)
        expected = torch.cat([
            torch.einsum("hij,jhd->ihd", (torch.einsum("ihd,jhd->hij", a, b) * 0.3).softmax(-1), c) for a, b, c in parts
        ])  # fmt: skip
        found = bidirectional_attention(q, k, v, bounds, scale=0.3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        weight = torch.randn_like(expected)
        ours_, theirs = (torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (found, expected))
        for one, other in zip(ours_, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("further", [{"position_embedding_type": "relative_key"}, {"is_decoder": True}])
def test_other_encoders_are_refused(further: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES, **further}))
    with pytest.raises(
        ModelError, match=str(next(iter(further.values())) if "position" in str(further) else "is_decoder")
    ):
        load_model(tmp_path, init="random")
