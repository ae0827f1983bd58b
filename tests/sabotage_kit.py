"""Models that have learnt a few answers, and their exports by every writer, of what they are or of a spoilt draft.

A model of a family is random but for a briefly trained adapter: it answers four questions, ends each answer, and every
module of its adapter has a part in that. What can be spoilt is in `sabotage_harms.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
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
