"""`danlu new NAME`: a short commented recipe, in the reader's language, that runs once a data path is filled in; with
--from, another suite's configuration in danlu's words.

What the furnace can do beside is named in comments that hold as they stand once their mark is taken away.
"""

from __future__ import annotations

from pathlib import Path

from danlu.cli.lines import described, terminal_cells
from danlu.cli.voice import FIX, Voice
from danlu.core.errors import RunError
from danlu.core.files import write_text
from danlu.core.messages import current_language, say
from danlu.pipeline.translate import translate, translated_text
from danlu.recipe.file import run_name

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
  # What follows has defaults, too; take away the "# " of what you want otherwise.
  # cleaning: {{near_duplicates: flag, simplified: true}}   # what is mended, and which rows go; drop, flag or keep
  # privacy: {{pack: medical}}         # personal data and secrets; `danlu explain data.privacy.pack`
  # documents: {{ocr: docling}}        # text recognition for scans and pictures
  # teacher: {{url: "http://localhost:8000/v1", model: qwen3}}   # who answers when data is made; your own server, say
  # synthesis: {{questions: 3, paraphrases: 1}}   # questions and answers from your documents, each with its evidence
  # augment: {{methods: [eda]}}        # other wordings of train rows: `danlu list augment`
  # replay: {{ratio: 0.1, path: general.jsonl}}   # general data against forgetting; else the built-in one
  # Rows worth labelling next are chosen by `danlu select`, which needs nothing here.

method:
  kind: sft                        # or chain: stages: [pretrain, sft, dpo]

training:
  epochs: 3
  context: 2048                    # longest sample in tokens; `danlu inspect data/` shows yours
  batch_tokens: 16384              # tokens per optimizer step; small sets want less

evaluation:
  # questions: questions.jsonl     # your own questions and answers; else the held-out part is asked
  tasks: [domain, consistency, probes, forgetting, memorisation]

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
  # 以下各项也都有默认值；需要改哪一项，就去掉它前面的“# ”。
  # cleaning: {{near_duplicates: flag, simplified: true}}   # 清洗：修补什么、剔除哪些行（drop、flag、keep）
  # privacy: {{pack: medical}}         # 个人信息与密钥：见 `danlu explain data.privacy.pack`，默认 minimal
  # documents: {{ocr: docling}}        # 扫描件和图片的文字识别
  # teacher: {{url: "http://localhost:8000/v1", model: qwen3}}   # 造数据时由谁作答，例如您自己的服务
  # synthesis: {{questions: 3, paraphrases: 1}}   # 由您的文档生成问答，每条都附原文依据
  # augment: {{methods: [eda]}}        # 训练行的其他说法：见 `danlu list augment`
  # replay: {{ratio: 0.1, path: general.jsonl}}   # 混入通用数据以防遗忘；不写则用内置的
  # 接下来最值得标注的行由 `danlu select` 挑选，这里无需设置。

method:
  kind: sft                        # 也可以串联：stages: [pretrain, sft, dpo]

training:
  epochs: 3
  context: 2048                    # 单个样本的最大词元数；`danlu inspect data/` 会显示您的数据长度
  batch_tokens: 16384              # 每个优化步的词元数；数据少时应取小

evaluation:
  # questions: questions.jsonl     # 您自己的问答；不写则用留出的部分
  tasks: [domain, consistency, probes, forgetting, memorisation]

gate: {{min_gain: 0.05, max_forget: 0.15}}

exports: [adapter, merged]
""",
}


def write_new_recipe(name: str | None, voice: Voice) -> None:
    if name is None:
        raise RunError("translate.needs_name")
    path = _free(name)
    write_text(path, RECIPES[current_language()].format(name=run_name(path.stem)))
    _tell_next(path, voice)
    voice.result({"recipe": str(path)})


def write_translation(name: str | None, other: Path, voice: Voice) -> None:
    """`other` as a recipe called `name`, or as the other file calls what it makes."""
    found = translate(other, progress=voice.progress)
    path = _free(name or found.name)
    if name is not None:
        found.name = run_name(path.stem)
    write_text(path, translated_text(found, other))
    told = {"source": other.name, "suite": found.suite, "num": len(found.carried)}
    voice.say(say("translate.told", file=path, **told), "bold")
    if found.left:
        voice.say(say("translate.left_title", num=len(found.left)), FIX)
        voice.say(described([(one.name, one.why) for one in found.left], terminal_cells()))
    _tell_next(path, voice)
    carried = [{"knob": one.knob, "value": one.value, "from": one.origin} for one in found.carried.values()]
    voice.result(
        {"recipe": str(path), "suite": found.suite, "carried": carried, "left": [one.to_json() for one in found.left]}
    )


def _free(name: str) -> Path:
    path = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if path.exists():
        raise RunError("cli.file_exists", given=str(path))
    return path


def _tell_next(path: Path, voice: Voice) -> None:
    voice.say(say("cli.wrote", path=path))
    voice.say(say("cli.next", command=f"danlu check {path}"))
