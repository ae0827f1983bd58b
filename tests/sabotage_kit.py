"""Models that have learnt a few answers, their exports by every writer, and the ways to spoil one.

A model of a family is random but for a briefly trained adapter: it answers four questions, ends each answer, and every
module of its adapter has a part in that. A harm spoils what a writer is given or what it wrote; how it is then told is
the readers' affair.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from danlu.adapters.lora import AttachedLoRA, LoRA
from danlu.adapters.peft_format import Pair, read_pairs, write_pairs
from danlu.data.contract import Contract, make_contract
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports.adapter import AdapterExport
from danlu.exports.export import Facts, Quiz, Subject
from danlu.exports.gguf.lora import write_lora
from danlu.exports.gguf.write import About, write_model
from danlu.exports.hf import MergedExport
from danlu.exports.parity import record
from danlu.exports.proof import Promise
from danlu.exports.reload import living_pairs
from danlu.exports.speech import golden_prompts, write_speech
from danlu.model.build import load_model, save_model
from danlu.model.model import Model
from danlu.ops.attention import Bounds
from llamacpp_kit import CASES, write_case

LESSONS = {
    "出差一天补贴多少?": "八十元", "How many days of leave do I get?": "five days", "发票抬头写什么?": "公司全称",
    "Who approves it?": "the manager",
}  # fmt: skip
ASIDES = ("病假需要什么?", "May I work from home?", "三个工作日 1234", "Tell your manager by noon.")
FAMILIES = (
    "qwen2", "llama2", "llama3.1", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "qwen2.5, tied",
    "llama, linear rope, all biases", "phi4-mini, tied, partial rotation", "llama3.2, tied",
)  # fmt: skip
END = "<|over|>"
KEPT = {"gemma2": "float32", "gemma3": "float32", "llama3.1": "float32", "phi3": "float32"}
"""In what a base's files lie; bf16 where nothing is said."""


# ---- what is exported


@dataclass
class Pupil:
    """A trained model ready for export; `stranger` is another base of the same shape."""

    family: str
    subject: Subject
    base: Path
    stranger: Path

    @property
    def model(self) -> Model:
        return self.subject.engine.model

    @property
    def adapter(self) -> AttachedLoRA:
        assert isinstance(self.subject.engine.adapter, AttachedLoRA)
        return self.subject.engine.adapter

    @property
    def contract(self) -> Contract:
        return self.subject.contract


def make_pupil(family: str, folder: Path, *, seed: int = 0, num_steps: int = 120, size: float = 1.0) -> Pupil:
    base, stranger = folder / "base", folder / "stranger"
    for place, drawn in ((base, seed), (stranger, seed + 1000)):
        write_case(place, CASES[family], seed=drawn)
        rename_end(place)
        keep_in(place, KEPT.get(family, "bfloat16"))
        name_class(place)
    tokenizer = Tokenizer.load(base)
    encoder = Encoder(tokenizer, Template.load(base, tokenizer))
    model = load_model(base, dtype="fp32")
    adapter = LoRA(rank=4, seed=seed).attach(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapter.parameters().items():
            if name.endswith("lora_B"):
                weight += 0.02 * size * torch.randn(weight.shape, generator=generator)
    engine = NativeEngine(model, encoder, name="pupil", adapter=adapter)
    teach(engine, num_steps)
    contract = make_contract(encoder.template, tokenizer, {"temperature": 0.7, "top_p": 0.8, "top_k": 20})
    texts = (*ASIDES, *LESSONS)
    probes = (*golden_prompts(contract, engine), *(Question((Message("user", text),)) for text in texts))
    records = tuple(record(engine, [engine.prompt_ids(probe) for probe in probes], max_new_tokens=12))
    quiz = tuple(
        Quiz(Question((Message("user", question),)), lambda text, answer=answer: text == answer)
        for question, answer in LESSONS.items()
    )
    facts = Facts("pupil", {"name": "tiny", "revision": None, "digest": model.digest})
    return Pupil(family, Subject(engine, contract, facts, probes, records, 12, quiz), base, stranger)


def rename_end(folder: Path) -> None:
    """A name for the end of a turn that no program knows by heart: llama.cpp stops at <|im_end|> whatever a file says."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text(encoding="utf-8").replace("<|im_end|>", END), encoding="utf-8")


def keep_in(folder: Path, dtype: str) -> None:
    """The checkpoint's numbers in another dtype."""
    tensors = {
        name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}))


def name_class(folder: Path) -> None:
    """As every checkpoint on a hub does: vLLM takes a nameless model for one that writes no text."""
    config = json.loads((folder / "config.json").read_text())
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [name]}))


def teach(engine: NativeEngine, num_steps: int) -> None:
    """Adam on the adapter until the answers are learnt, at most `num_steps`."""
    model, encoder = engine.model, engine.encoder
    stop = encoder.tokenizer.control_id(END)
    texts = []
    for question, answer in LESSONS.items():
        prompt = engine.prompt_ids(Question((Message("user", question),)))
        texts.append((prompt, [*encoder.tokenizer.encode_text(answer), stop]))
    bounds = Bounds.of([len(prompt) + len(answer) for prompt, answer in texts])
    ids_T = torch.tensor([token for prompt, answer in texts for token in prompt + answer])
    learnt_T = torch.tensor(
        [taught for prompt, answer in texts for taught in [False] * len(prompt) + [True] * len(answer)]
    )
    targets = learnt_T.nonzero()[:, 0]
    weights = list(engine.adapter.parameters().values())  # type: ignore[union-attr]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(num_steps):
        hidden_TD = model.hidden(ids_T, bounds.positions(), bounds)
        logits_SV = model.logits(hidden_TD[targets - 1])
        loss = torch.nn.functional.cross_entropy(logits_SV.float(), ids_T[targets])
        if bool((logits_SV.argmax(-1) == ids_T[targets]).all()) and float(loss.detach()) < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in weights:
        weight.requires_grad_(False)


# ---- what is written, and how it can be spoilt


@dataclass
class Draft:
    """All that a writer is given. `change` sees the merged model before it is written, `edit` the written folder."""

    pupil: Pupil
    pairs: dict[str, Pair]
    base: Path
    contract: Contract
    source: Path
    change: Callable[[Model], None] = lambda model: None
    edit: Callable[[Path], None] = lambda folder: None

    @property
    def modules(self) -> list[str]:
        return list(self.pairs)

    def scale(self, factor: float, *names: str) -> None:
        for name in names:
            pair = self.pairs[name]
            if factor == 0.0:  # a scale of nothing is not what a file can say
                self.pairs[name] = replace(pair, B=0.0 * pair.B)
            else:
                self.pairs[name] = replace(pair, scaling=pair.scaling * factor)


Harm = Callable[[Draft], bool | None]
"""Spoils a draft; False where there is nothing to spoil in this family."""
KINDS = ("adapter", "merged", "gguf f32", "gguf f16", "gguf bf16", "gguf q8_0", "lora gguf")
SPEAKING = KINDS[:-1]
WHOLE = KINDS[1:-1]


def draft_of(pupil: Pupil) -> Draft:
    with living_pairs(pupil.subject) as folder:
        assert folder is not None
        pairs = read_pairs(folder, pupil.model)
    return Draft(pupil, dict(pairs), pupil.base, pupil.contract, pupil.base)


def promise_of(pupil: Pupil, kind: str, folder: Path) -> Promise:
    """What the honest writer of a kind promises. `folder` holds the base's own GGUF, written when it is needed."""
    if kind == "adapter":
        return Promise(("peft",), is_merged=False, beside=pupil.base)
    if kind == "merged":
        kept = "bf16" if KEPT.get(pupil.family, "bfloat16") == "bfloat16" else "f32"
        return Promise(("transformers",), matrices=kept, vectors=kept)  # type: ignore[arg-type]
    if kind == "lora gguf":
        return Promise(("llamacpp",), is_merged=False, beside=base_gguf(pupil, pupil.base, folder / "base.gguf"))
    return Promise(("llamacpp",), matrices=kind.split()[1])  # type: ignore[arg-type]


def base_gguf(pupil: Pupil, base: Path, path: Path) -> Path:
    if not path.exists():
        model = load_model(base, dtype="fp32")
        write_model(model, path, contract=pupil.contract, source=base, about=About("base"), quantize="f32")
    return path


def write(draft: Draft, kind: str, folder: Path) -> Path:
    """By the parts that the exports are made of."""
    folder.mkdir(parents=True, exist_ok=True)
    pupil = draft.pupil
    if kind == "adapter":
        write_pairs(folder, draft.pairs, pupil.model)
        write_speech(draft.contract, draft.source, folder)
    elif kind == "lora gguf":
        write_lora(draft.pairs, pupil.model, folder / "lora.gguf", about=About("pupil"))
    else:
        model = merged_model(draft)
        if kind == "merged":
            save_model(model, folder, KEPT.get(pupil.family, "bfloat16"))
            write_speech(draft.contract, draft.source, folder)
        else:
            write_model(
                model, folder / "model.gguf", contract=draft.contract, source=draft.source, about=About("pupil"),
                quantize=kind.split()[1],
            )  # type: ignore[arg-type] # fmt: skip
    draft.edit(folder)
    return folder


def write_honestly(pupil: Pupil, kind: str, folder: Path) -> Path:
    """By the exports themselves where there is one."""
    exports = {"adapter": AdapterExport, "merged": MergedExport}
    if kind not in exports:
        return write(draft_of(pupil), kind, folder)
    folder.mkdir(parents=True)
    exports[kind]().write(pupil.subject, folder)
    return folder


def merged_model(draft: Draft) -> Model:
    model = load_model(draft.base, dtype="fp32")
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, pair in draft.pairs.items():
            weights[f"{name}.weight"] += pair.scaling * (pair.B @ pair.A)
        draft.change(model)
    return model


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
