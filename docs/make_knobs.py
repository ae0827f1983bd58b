"""Writes docs/knobs.md and docs/knobs.zh.md from the list of knobs and the texts of `danlu explain`.

    python docs/make_knobs.py            # after a knob or its explanation has changed

A test holds the committed files to what this would write.
"""

from __future__ import annotations

from pathlib import Path

from danlu.cli.explain import explained
from danlu.core.messages import set_language
from danlu.recipe import Recipe
from danlu.recipe.defaults import LR_FROM_SCRATCH, USUAL_LR
from danlu.recipe.knobs import Knob, all_knobs

FOLDER = Path(__file__).parent
FILES = {"en": "knobs.md", "zh": "knobs.zh.md"}
CHAPTERS = {
    "en": {"": "The recipe itself"},
    "zh": {
        "": "配方本身", "model": "model · 模型", "adapter": "adapter · 训练哪些权重", "data": "data · 数据",
        "method": "method · 学什么", "training": "training · 训练循环", "evaluation": "evaluation · 评测",
        "gate": "gate · 放行条件", "exports": "exports · 导出", "serving": "serving · 服务",
        "tracking": "tracking · 跟踪", "round": "round · 轮次",
    },
}  # fmt: skip
WORDS = {
    "en": {
        "title": "Knobs",
        "other": "[中文](knobs.zh.md)",
        "about": "Everything a recipe may say: {count} knobs. The same texts are told by `danlu explain KEY`, in the "
        "order of a recipe. Set one in the recipe, or on the command line as `key=value`. A key that is not here is an "
        "error that names the nearest one.\n\nMade by `python docs/make_knobs.py`; do not edit.",
        "allowed": "Values: ", "default": "Default: ", "empty": "empty", "only": "only where `{tag}`",
        "lr": "by method and adapter: {usual}; random weights {scratch}",
    },
    "zh": {
        "title": "选项",
        "other": "[English](knobs.md)",
        "about": "配方中可以写的全部内容：{count} 个选项，按配方中的顺序排列，文字与 `danlu explain 键名` 相同。可写在"
        "配方里，也可在命令行写 `键=值`。写了这里没有的键会报错，并给出最接近的名称。\n\n"
        "本页由 `python docs/make_knobs.py` 生成，请勿手改。",
        "allowed": "取值：", "default": "默认：", "empty": "空", "only": "仅当 `{tag}`",
        "lr": "由方法和适配器决定：{usual}；随机权重 {scratch}",
    },
}  # fmt: skip


def make(language: str) -> str:
    """The page in one language."""
    set_language(language)
    try:
        words = WORDS[language]
        knobs = all_knobs(Recipe)
        lines = [f"# {words['title']}", "", words["other"], "", words["about"].format(count=len(knobs)), ""]
        chapter = None
        for key, knob in knobs.items():
            first = key.partition(".")[0] if "." in key else ""
            if first != chapter:
                chapter = first
                lines += [f"## {CHAPTERS[language].get(chapter, chapter)}", ""]
            lines += _entry(knob, words)
        return "\n".join(lines).rstrip() + "\n"
    finally:
        set_language(None)


def _entry(knob: Knob, words: dict[str, str]) -> list[str]:
    told = explained(knob)
    values = f"`{told['type']}`" + (f", {told['range']}" if told["range"] else "")
    tag = _tag(knob)
    only = f" · {words['only'].format(tag=tag)}" if tag else ""
    return [
        f"### `{knob.key}`", "",
        told["help"], "",
        f"{words['allowed']}{values} · {words['default']}{_default(knob, words)}{only}", "",
        told["reason"], "",
    ]  # fmt: skip


def _tag(knob: Knob) -> str:
    """`adapter.kind: lora` for a knob that other kinds of its chapter do not have."""
    chapter = knob.key.partition(".")[0]
    if knob.key.endswith(".kind") or not knob.kinds or chapter == "exports":
        return ""
    return f"{chapter}.kind: {' | '.join(knob.kinds)}"


def _default(knob: Knob, words: dict[str, str]) -> str:
    if knob.key == "training.lr":
        usual = ", ".join(f"{method} {adapter} {rate:g}" for (method, adapter), rate in USUAL_LR.items())
        return words["lr"].format(usual=usual, scratch=f"{LR_FROM_SCRATCH:g}")
    if knob.key == "adapter.alpha":
        return "2 × rank"
    if isinstance(knob.default, tuple):
        return f"`[{', '.join(str(getattr(entry, 'kind', entry)) for entry in knob.default)}]`"
    if knob.default is None or knob.default == {}:
        return words["empty"]
    return f"`{str(knob.default).lower() if isinstance(knob.default, bool) else knob.default}`"


if __name__ == "__main__":
    for language, name in FILES.items():
        (FOLDER / name).write_text(make(language), encoding="utf-8")
