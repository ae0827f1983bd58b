"""Small encoders as hubs have them: config, tokenizer, and weights drawn by transformers; and reviews that can be told
apart."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import RobertaProcessing, TemplateProcessing

SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.1,
}  # fmt: skip
_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NEUTRAL = "外卖 米饭 面条 汤 店家 骑手 包装 份量 今天 昨天 中午 晚上 公司 家里 点了 送到 盒子 筷子 订单 同事".split()
_GOOD, _BAD = "好吃 干净 热情 准时 喜欢 满意".split(), "难吃 冰凉 洒了 迟到 失望 恶心".split()


def write_bert(folder: Path, texts: Iterable[str], **config: Any) -> Path:
    """A folder with config.json and a WordPiece tokenizer.json of the texts' characters; no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = sorted({character for text in texts for character in text.lower() if not character.isspace()})
    latin = [f"##{character}" for character in characters if character.isascii()]
    vocabulary = {token: number for number, token in enumerate([*_MARKS, *characters, *latin])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(_MARKS))
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _MARKS, strict=True))
    _write(folder / "tokenizer_config.json", roles | {"tokenizer_class": "BertTokenizerFast"})
    _write(
        folder / "config.json",
        {"model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 128,
         "vocab_size": len(vocabulary)} | SMALL | config,
    )  # fmt: skip
    return folder


def write_roberta(folder: Path, texts: Iterable[str], **config: Any) -> Path:
    """The same with a byte-level BPE of `texts`."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = ByteLevelBPETokenizer()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(list(texts), vocab_size=400, special_tokens=marks, show_progress=False)
    trained._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    trained.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>",
             "unk_token": "<unk>", "mask_token": "<mask>", "tokenizer_class": "RobertaTokenizerFast"}  # fmt: skip
    _write(folder / "tokenizer_config.json", roles)
    _write(
        folder / "config.json",
        {"model_type": "roberta", "architectures": ["RobertaModel"], "max_position_embeddings": 130,
         "type_vocab_size": 1, "pad_token_id": 1, "vocab_size": trained.get_vocab_size()} | SMALL | config,
    )  # fmt: skip
    return folder


def with_weights(folder: Path, seed: int = 0) -> Path:
    """transformers' own bare model of the folder's config, written beside it."""
    import torch
    import transformers

    torch.manual_seed(seed)
    transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def reviews(num: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """(text, class): a few words that say nothing, among them one or two that do."""
    chance = random.Random(seed)
    rows = []
    for _ in range(num):
        label, telling = chance.choice([("好评", _GOOD), ("差评", _BAD)])
        words = chance.sample(_NEUTRAL, chance.randint(4, 9)) + chance.sample(telling, chance.randint(1, 2))
        chance.shuffle(words)
        rows.append(("".join(words) + chance.choice("。！…"), label))
    return rows


def write_reviews(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "label"])
        writer.writerows(rows)
    return path


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
