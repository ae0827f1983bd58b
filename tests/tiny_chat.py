"""A tiny chat model for tests: a byte-level BPE trained on the spot and a random Qwen2-shaped network, as a Hugging Face
folder that transformers itself has written."""

from __future__ import annotations

import json
from pathlib import Path

CHATML = (
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "差旅补贴每天八十元,超出部分由部门经理审批。员工入职满一年享有五天年假,病假需要医院证明。",
    "The travel allowance is eighty yuan a day. Anything above it needs the department manager's approval.",
    "问:出差一天补贴多少?答:八十元。请在三个工作日内提交报销单,发票抬头写公司全称。",
    "Employees may work from home two days a week; please tell your manager by noon the day before.",
]
QUESTIONS = ["出差一天补贴多少?", "How many days of leave do I get?", "发票抬头写什么?", "Who approves it? 谁审批?😀"]


def write_tokenizer(folder: Path, vocab_size: int = 512) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a ChatML model."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    rule = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "model_max_length": 512, "clean_up_tokenization_spaces": False,
        "chat_template": CHATML,
        "added_tokens_decoder": {
            str(i): {"content": text, "special": True, "lstrip": False, "rstrip": False, "normalized": False,
                     "single_word": False}
            for i, text in enumerate(special)
        },
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def write_base(folder: Path, *, seed: int = 0, num_layers: int = 2, size: int = 64, vocab_size: int = 512) -> Path:
    """A random Qwen2 with large weights, so that its logits are far apart and greedy answers do not hang on round-off."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    write_tokenizer(folder, vocab_size)
    from tokenizers import Tokenizer

    vocab_size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = Qwen2Config(
        vocab_size=vocab_size, hidden_size=size, intermediate_size=2 * size, num_hidden_layers=num_layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.12, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = [2, 0]
    model.generation_config.pad_token_id = 0
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_fused(folder: Path) -> Path:
    """A random Phi-3: q, k, v in one weight, gate and up in another, and a head of its own."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    write_tokenizer(folder)
    config = Phi3Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, original_max_position_embeddings=512,
        tie_word_embeddings=False, initializer_range=0.12, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config)
    model.generation_config.eos_token_id = [2, 0]
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def tuned_engine(
    folder: Path, *, dtype: str = "fp32", rank: int = 4, size: float = 0.02, seed: int = 0, kind: str = "lora",
    template: str | None = None, system: str | None = None, quantize: str = "none",
):  # fmt: skip
    """(NativeEngine, Contract) of the base in `folder` with an adapter that changes its answers."""
    import torch

    from danlu.adapters.full import Full
    from danlu.adapters.lora import LoRA
    from danlu.data.contract import make_contract
    from danlu.data.encode import Encoder
    from danlu.data.template import Template
    from danlu.data.tokenizer import Tokenizer
    from danlu.engines.native import NativeEngine
    from danlu.model.build import load_model

    tokenizer = Tokenizer.load(folder)
    if template is None:
        encoder = Encoder(tokenizer, Template.load(folder, tokenizer, system=system))
    else:
        encoder = Encoder(tokenizer, Template({"default": template}, tokenizer, system=system))
    model = load_model(folder, dtype=dtype, quantize=quantize)
    adapter = LoRA(rank=rank).attach(model) if kind == "lora" else Full().attach(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapter.parameters().items():
            if kind == "full" or name.endswith("lora_B"):
                weight += size * torch.randn(weight.shape, generator=generator)
    engine = NativeEngine(model, encoder, name="tuned", adapter=adapter)
    return engine, make_contract(encoder.template, tokenizer, {"temperature": 0.7, "top_p": 0.8, "top_k": 20})
