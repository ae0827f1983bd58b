"""`danlu new NAME`: a short commented recipe, in the reader's language, that runs once a data path is filled in."""

from __future__ import annotations

import re
from pathlib import Path

from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.files import write_text
from danlu.core.messages import current_language, say

RECIPES = {
    "en": """# A danlu recipe. Everything left out takes a vetted default; `danlu explain KEY` tells which and why.
name: {name}

model:
  base: Qwen/Qwen2.5-7B-Instruct   # a folder, a hub id, or ember (embedded, for trying things out)

adapter:
  kind: lora
  rank: 16                         # 8 to 64; alpha follows as 2 x rank

data:
  sources:
    - data/                        # files, folders, globs; format, encoding and columns are sniffed
  split: {{test: 0.1, validation: 0.05}}

method:
  kind: sft                        # or chain: stages: [pretrain, sft, dpo]

training:
  epochs: 3
  context: 2048                    # longest sample in tokens; `danlu inspect data/` shows yours
  batch_tokens: 16384              # tokens per optimizer step; small sets want less

evaluation:
  # questions: questions.jsonl     # your own questions and answers; else the held-out part is asked
  tasks: [domain, consistency, forgetting]

gate: {{min_gain: 0.05, max_forget: 0.15}}

exports: [adapter, merged]
""",
    "zh": """# danlu 配方。没写的选项都有经过验证的默认值；`danlu explain 键名` 会说明取值和理由。
name: {name}

model:
  base: Qwen/Qwen2.5-7B-Instruct   # 文件夹、模型库编号，或 ember（内置，用于试跑）
  hub: modelscope                  # 国内下载更快；也可用 huggingface

adapter:
  kind: lora
  rank: 16                         # 8–64；alpha 自动取 rank 的两倍

data:
  sources:
    - data/                        # 文件、文件夹或通配符；格式、编码、列名自动识别
  split: {{test: 0.1, validation: 0.05}}

method:
  kind: sft                        # 也可以串联：stages: [pretrain, sft, dpo]

training:
  epochs: 3
  context: 2048                    # 单个样本的最大词元数；`danlu inspect data/` 会显示您的数据长度
  batch_tokens: 16384              # 每个优化步的词元数；数据少时应取小

evaluation:
  # questions: questions.jsonl     # 您自己的问答；不写则用留出的部分
  tasks: [domain, consistency, forgetting]

gate: {{min_gain: 0.05, max_forget: 0.15}}

exports: [adapter, merged]
""",
}


def write_new_recipe(name: str, voice: Voice) -> None:
    path = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if path.exists():
        raise RunError("cli.file_exists", given=str(path))
    write_text(path, RECIPES[current_language()].format(name=_name_of(path.stem)))
    voice.say(say("cli.wrote", path=path))
    voice.say(say("cli.next", command=f"danlu check {path}"))
    voice.result({"recipe": str(path)})


def _name_of(stem: str) -> str:
    """A file may be called anything, a run may not."""
    return re.sub(r"[^\w.\-]+", "-", stem).strip("-.")[:64] or "expert"
