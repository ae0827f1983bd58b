"""Train ember's tokenizer: byte-level BPE under Qwen2's split rule, 12,288 entries with chat and tool tokens.

    python -m recipes.ember.tokenizer PRETRAIN_FOLDER OUT_FOLDER

The split rule and the order of steps are those of Qwen2's `tokenizer.json` (NFC, regex split, byte level), so the
`qwen2` pre-tokenizer of GGUF describes it truly. Control tokens stand at the end of the vocabulary. Not here: the
text itself (`corpus.py`, `synthetic.py`).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from recipes.ember.corpus import read_shard
from recipes.ember.synthetic import plain_text, rows
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCAB_SIZE = 12_288
LONGEST_TOKEN_BYTES = 16
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Added but not "special", as in Qwen2.5 and Qwen3: they stay visible when special tokens are skipped.
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
MEGABYTE = 1_000_000
# UTF-8 megabytes of each shard that the merges are learnt from: modern register first.
SAMPLE = {
    "zh_law": 9.0,
    "zh_tech_docs": 6.0,
    "zh_qa_permissive": 8.0,
    "zh_vernacular_novels": 3.0,
    "zh_poetry": 0.6,
    "zh_tcm_classics": 0.6,
    "en_novels": 4.0,
    "en_factbook": 2.0,
    "en_misc": 3.0,
}
SYNTHETIC_MEGABYTES = 7.0

# ChatML. Every line break is written out, so the text is the same whatever block trimming the renderer uses.
TEMPLATE = """\
{%- set begin, end = '<|im_start|>', '<|im_end|>\\n' -%}
{%- set opened = messages and messages[0].role == 'system' -%}
{%- if opened or tools -%}
  {{- begin + 'system\\n' + (messages[0].content if opened else '') -}}
  {%- if tools -%}
    {{- ('\\n\\n' if opened else '') + '# Tools\\nYou may call these functions:' -}}
    {%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
    {{- '\\nFor each call write one JSON object inside tags:\\n<tool_call>\\n' -}}
    {{- '{\"name\": \"...\", \"arguments\": {...}}\\n</tool_call>' -}}
  {%- endif -%}
  {{- end -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {%- if loop.first or loop.previtem.role != 'tool' -%}{{- begin + 'user' -}}{%- endif -%}
    {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' -}}
    {%- if loop.last or loop.nextitem.role != 'tool' -%}{{- end -}}{%- endif -%}
  {%- elif not (loop.first and opened) -%}
    {{- begin + message.role + '\\n' + (message.content or '') -}}
    {%- for made in message.tool_calls or [] -%}
      {%- set call = made.function or made -%}
      {%- set arguments = call.arguments if call.arguments is string else call.arguments | tojson -%}
      {{- '\\n' if message.content or not loop.first else '' -}}
      {{- '<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' + arguments + '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- end -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- begin + 'assistant\\n' -}}{%- endif -%}
"""


def sample(pretrain: Path, seed: int = 7) -> Iterator[str]:
    """The texts that merges are learnt from, `SAMPLE` megabytes of each shard and some of our own."""
    rng = random.Random(seed)
    for shard, megabytes in SAMPLE.items():
        yield from _first(read_shard(pretrain, shard), megabytes * MEGABYTE, rng)
    yield from _first((plain_text(row) for row in rows(seed=seed)), SYNTHETIC_MEGABYTES * MEGABYTE, rng, keep=1.0)


def _first(texts: Iterator[str], num_bytes: float, rng: random.Random, keep: float = 0.5) -> Iterator[str]:
    """Every second document or so (in pieces of 20,000 characters) until the bytes are reached."""
    taken = 0
    for text in texts:
        if rng.random() > keep:
            continue
        text = text[:20_000]
        taken += len(text.encode())
        yield text
        if taken > num_bytes:
            return


def train(texts: Iterator[str]) -> Tokenizer:
    """A byte-level BPE of exactly `VOCAB_SIZE` entries, control tokens last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST_TOKEN_BYTES,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKS])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, f"vocabulary of {tokenizer.get_vocab_size()}"
    return tokenizer


def write_config(tokenizer: Tokenizer, folder: Path) -> None:
    """`tokenizer_config.json`, `generation_config.json` and `config.json` that belong to this vocabulary."""
    ids = {token: tokenizer.token_to_id(token) for token in (*SPECIAL, *MARKS)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "added_tokens_decoder": {
            str(number): {"content": token, **flags, "special": token in SPECIAL} for token, number in ids.items()
        },
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": SHAPE["max_position_embeddings"],
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    end, stop = ids["<|endoftext|>"], ids["<|im_end|>"]
    generation = {"eos_token_id": [stop, end], "pad_token_id": end, "do_sample": True, "temperature": 0.7, "top_p": 0.8}
    shape = {**SHAPE, "bos_token_id": end, "eos_token_id": stop, "pad_token_id": end}
    for name, content in (
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
        ("config.json", shape),
    ):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


# Qwen2 layout. 12,288 × 384 tied embedding (4.72 M) + 7 layers of 1.57 M = 15.73 M parameters, 31.5 MB in bf16.
SHAPE: dict[str, object] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 1024,
    "max_position_embeddings": 1024,
    "model_type": "qwen2",
    "num_attention_heads": 6,
    "num_hidden_layers": 7,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB_SIZE,
}


def main(pretrain: str, out: str) -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train(sample(Path(pretrain)))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(tokenizer, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
