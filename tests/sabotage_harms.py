"""The ways to spoil an export: its update, its weights, what its header says of the shape, its speech.

A harm changes what a writer is given or what it wrote, or says that a family has nothing of the kind (False); how it is
then told is the readers' affair.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.model.model import Model
from sabotage_kit import SPEAKING, WHOLE, Draft, Harm, merged_model

# ---- harms to the update


def one_module(factor: float, at: int) -> Harm:
    def spoil(draft: Draft) -> None:
        draft.scale(factor, draft.modules[at % len(draft.modules)])

    return spoil


def all_modules(factor: float) -> Harm:
    return lambda draft: draft.scale(factor, *draft.modules)


def layer_lost(draft: Draft) -> None:
    last = max(int(name.split(".")[2]) for name in draft.modules)
    for name in [name for name in draft.modules if name.split(".")[2] == str(last)]:
        draft.scale(0.0, name)


def layers_swapped(draft: Draft) -> None:
    for name in [name for name in draft.modules if ".layers.0." in name]:
        other = name.replace(".layers.0.", ".layers.1.")
        draft.pairs[name], draft.pairs[other] = draft.pairs[other], draft.pairs[name]


def update_transposed(draft: Draft) -> bool:
    """Of a square module: B A becomes its own transpose."""
    square = [name for name, pair in draft.pairs.items() if pair.A.shape[1] == pair.B.shape[0] and "o_proj" in name]
    for name in square[:1]:
        pair = draft.pairs[name]
        draft.pairs[name] = replace(pair, A=pair.B.T.contiguous(), B=pair.A.T.contiguous())
    return bool(square)


def updates_swapped(first: str, second: str) -> Harm:
    def spoil(draft: Draft) -> bool:
        one = next(name for name in draft.modules if name.endswith(first))
        other = one.replace(first, second)
        if draft.pairs[one].B.shape != draft.pairs[other].B.shape:
            return False
        draft.pairs[one], draft.pairs[other] = draft.pairs[other], draft.pairs[one]
        return True

    return spoil


def ranks_shuffled(draft: Draft) -> None:
    name = draft.modules[0]
    draft.pairs[name] = replace(draft.pairs[name], A=draft.pairs[name].A.roll(1, 0))


def pairs_in_bf16(draft: Draft) -> None:
    for name, pair in draft.pairs.items():
        draft.pairs[name] = replace(pair, A=pair.A.bfloat16().float(), B=pair.B.bfloat16().float())


def scale_in_bf16(draft: Draft) -> None:
    """alpha / rank as a bf16 number: 1.7 becomes 1.703; here a scale of a tenth more than its eighth digit shows."""
    draft.scale(float(torch.tensor(1.7).bfloat16()) / 1.7, *draft.modules)


# ---- harms to whole weights


def change(edit: Callable[[Model], bool | None]) -> Harm:
    """Of the merged model before it is written. Whether there is anything to spoil is tried on a copy."""

    def spoil(draft: Draft) -> bool:
        draft.change = edit  # type: ignore[assignment]
        return edit(copy.deepcopy(merged_model(replace(draft, change=lambda model: None)))) is not False

    return spoil


def _weight(model: Model, end: str) -> Tensor:
    return next(weight for name, weight in model.named_parameters() if name.endswith(end))


@torch.no_grad()
def weight_scaled(model: Model) -> None:
    """Not one whose output is normed: that takes any factor away again."""
    _weight(model, f"layers.1.mlp.{'gate' if model.spec.has_sandwich_norms else 'down'}_proj.weight").mul_(0.9)


@torch.no_grad()
def weight_transposed(model: Model) -> bool:
    weight = _weight(model, "layers.0.self_attn.o_proj.weight")
    if weight.shape[0] != weight.shape[1]:
        return False
    weight.copy_(weight.T.clone())
    return True


def weights_swapped(first: str, second: str) -> Callable[[Model], bool]:
    @torch.no_grad()
    def edit(model: Model) -> bool:
        one, other = (_weight(model, f"layers.0.self_attn.{name}.weight") for name in (first, second))
        if one.shape != other.shape:
            return False
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
        return True

    return edit


@torch.no_grad()
def norm_reset(model: Model) -> None:
    _weight(model, "layers.1.input_layernorm.weight").fill_(1.0 - model.spec.norm_offset)


@torch.no_grad()
def mlp_lost(model: Model) -> None:
    _weight(model, "layers.1.mlp.down_proj.weight").zero_()


@torch.no_grad()
def number_lost(model: Model) -> None:
    _weight(model, "layers.0.self_attn.o_proj.weight")[0, 0] = float("nan")


@torch.no_grad()
def bias_lost(model: Model) -> bool:
    biases = [weight for name, weight in model.named_parameters() if name.endswith("q_proj.bias")]
    for bias in biases[:1]:
        bias.zero_()
    return bool(biases)


@torch.no_grad()
def rows_swapped(model: Model) -> None:
    """Two rows of the embedding, one of them what every question begins with."""
    weight = _weight(model, "embed_tokens.weight")
    weight[[1, 7]] = weight[[7, 1]].clone()


@torch.no_grad()
def head_from_embedding(model: Model) -> bool:
    if model.spec.is_tied:
        return False
    _weight(model, "lm_head.weight").copy_(_weight(model, "embed_tokens.weight"))
    return True


def wrong_base(draft: Draft) -> None:
    draft.base = draft.pupil.stranger


# ---- harms to what the header says of the shape


def angles(draft: Draft) -> None:
    """The base of the angles, as config.json or as the header has it."""

    def edit_spec(model: Model) -> None:
        ropes = tuple(replace(rope, theta=rope.theta * 3) for rope in model.spec.ropes)
        model.spec = replace(model.spec, ropes=ropes)

    def edit_config(config: dict[str, Any]) -> None:
        tables = [table for table in _tables(config) if "rope_theta" in table] or [config]
        for table in tables:
            table["rope_theta"] = 3 * table.get("rope_theta", 10_000.0)

    draft.change, draft.edit = edit_spec, config_edit(edit_config)


def norm_eps(draft: Draft) -> None:
    def edit_spec(model: Model) -> None:
        model.spec = replace(model.spec, norm_eps=0.05)

    draft.change, draft.edit = edit_spec, config_edit(lambda config: config.update(rms_norm_eps=0.05))


def softcap_lost(draft: Draft) -> bool:
    if draft.pupil.model.spec.logit_softcap is None:
        return False

    def edit_spec(model: Model) -> None:
        model.spec = replace(model.spec, logit_softcap=None)

    draft.change, draft.edit = edit_spec, config_edit(lambda config: config.update(final_logit_softcapping=None))
    return True


def config_edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        if (folder / "config.json").is_file():
            config = json.loads((folder / "config.json").read_text())
            change(config)
            (folder / "config.json").write_text(json.dumps(config))

    return edit


def _tables(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _tables(value)


# ---- harms to speech


def _contract(change: Callable[[dict[str, Any]], None]) -> Harm:
    def spoil(draft: Draft) -> None:
        value = copy.deepcopy(dict(draft.contract.value))
        change(value)
        draft.contract = replace(draft.contract, value=value)

    return spoil


def _template(old: str, new: str) -> Harm:
    def edit(value: dict[str, Any]) -> None:
        assert old in value["template"]["default"], value["template"]["default"]
        value["template"] = {"default": value["template"]["default"].replace(old, new)}

    return _contract(edit)


OTHER_TEMPLATE = (
    "{%- for message in messages %}{{ '[' + message['role'] + '] ' + message['content'] + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)


def template_swapped(draft: Draft) -> None:
    def edit(value: dict[str, Any]) -> None:
        value["template"] = {"default": OTHER_TEMPLATE}

    _contract(edit)(draft)


def stops_become(*names: str) -> Harm:
    def spoil(draft: Draft) -> None:
        tokenizer = draft.pupil.subject.engine.encoder.tokenizer
        ids = [tokenizer.control_id(name) for name in names]

        def edit(value: dict[str, Any]) -> None:
            value["stop"] = [{"id": token, "token": name} for token, name in zip(ids, names, strict=True)]
            value["eos"], value["end_of_turn"] = ids[0], names[0]

        _contract(edit)(draft)

    return spoil


def _tokenizer(change: Callable[[dict[str, Any]], None]) -> Harm:
    """Another tokenizer.json beside the rest of the base's files."""

    def spoil(draft: Draft) -> None:
        source = draft.source.parent / f"stale-{abs(hash(change)) % 10**9}"
        if not source.exists():
            source.mkdir()
            for path in draft.source.iterdir():
                if path.suffix == ".json":
                    (source / path.name).write_bytes(path.read_bytes())
            tree = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
            change(tree)
            (source / "tokenizer.json").write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
        draft.source = source

    return spoil


def two_tokens_swapped(tree: dict[str, Any]) -> None:
    """Two of those that questions are made of."""
    vocab = tree["model"]["vocab"]
    first, second = "a", "e"
    vocab[first], vocab[second] = vocab[second], vocab[first]


def merges_lost(tree: dict[str, Any]) -> None:
    tree["model"]["merges"] = tree["model"]["merges"][:20]


UPDATE: dict[str, Harm] = {
    "one module at 0.9": one_module(0.9, 3),
    "every module at 0.9": all_modules(0.9),
    "alpha doubled": all_modules(2.0),
    "the update is lost": all_modules(0.0),
    "one module lost": one_module(0.0, 9),
    "one module turned around": one_module(-1.0, 5),
    "a layer's update lost": layer_lost,
    "two layers swapped": layers_swapped,
    "a square update transposed": update_transposed,
    "k's and v's updates swapped": updates_swapped("k_proj", "v_proj"),
    "q's and k's updates swapped": updates_swapped("q_proj", "k_proj"),
    "ranks of A and B do not match": ranks_shuffled,
}
FINE: dict[str, Harm] = {"pairs rounded to bf16": pairs_in_bf16, "the scale rounded to bf16": scale_in_bf16}
"""Below what coarse formats themselves round; asked of those that keep fp32."""
WEIGHTS: dict[str, Harm] = {
    "a whole weight at 0.9": change(weight_scaled),
    "a square weight transposed": change(weight_transposed),
    "k and v swapped": change(weights_swapped("k_proj", "v_proj")),
    "q and k swapped": change(weights_swapped("q_proj", "k_proj")),
    "a norm reset": change(norm_reset),
    "a layer's feed-forward lost": change(mlp_lost),
    "a number lost": change(number_lost),
    "a bias lost": change(bias_lost),
    "two rows of the embedding swapped": change(rows_swapped),
    "the head is the embedding": change(head_from_embedding),
    "another base": wrong_base,
    "other angles": angles,
    "another epsilon": norm_eps,
    "the softcap lost": softcap_lost,
}
SPEECH: dict[str, Harm] = {
    "another template": template_swapped,
    "a line break of the template lost": _template("assistant\n", "assistant"),
    "the end of turns lost": stops_become("<|endoftext|>"),
    "another end of turns": stops_become("<|im_start|>", "<|endoftext|>"),
    "a stale tokenizer: two tokens swapped": _tokenizer(two_tokens_swapped),
    "a stale tokenizer: most merges lost": _tokenizer(merges_lost),
}
HARMS = UPDATE | FINE | WEIGHTS | SPEECH


def applies(name: str, kind: str) -> bool:
    if name == "another base":
        return True
    if name in FINE:
        return kind in ("adapter", "lora gguf", "gguf f32")
    return name in UPDATE or kind in (WHOLE if name in WEIGHTS else SPEAKING)
