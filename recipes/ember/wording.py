"""How people ask for an item and how it is answered: frames, openings, endings, slips of the keyboard."""

from __future__ import annotations

import random
from dataclasses import dataclass

from recipes.ember.lexicon import Item, sections

SLIPS = (
    ("多少", "多小"),
    ("什么", "神马"),
    ("时间", "时见"),
    ("吗", "嘛"),
    ("的", "得"),
    ("怎么", "咋"),
    ("请问", "请文"),
)
SLIPS += (("多少", "几多"), ("什么", "啥"), ("可以", "能"), ("在哪里", "在哪儿"), ("多久", "多长时间"))
SLIPS_EN = (("what is", "whats"), ("how much", "how mutch"), ("please", "plz"), ("the ", "teh "), ("you", "u"))
SLIPS_EN += (("what's", "whats"), ("are ", "r "), ("does ", "dose "), ("where", "were"), ("the ", ""))


ASKING = "吗呢呀啊吧么不没嘛"  # a question that ends so takes no second particle


@dataclass(frozen=True)
class Fact:
    """One thing that one organisation has fixed: item, for whom (or ""), value as written, clause number."""

    item: Item
    qualifier: str
    value: str
    clause: int

    def name(self, rng: random.Random, lang: str, canonical: bool = False) -> str:
        plain = self.item.names[0] if canonical else rng.choice(self.item.names)
        if not self.qualifier:
            return plain
        if lang == "zh":
            return f"{self.qualifier}的{plain}" if canonical or rng.random() < 0.6 else f"{self.qualifier}{plain}"
        return f"{plain} for {self.qualifier}"


def _slip(text: str, rng: random.Random, lang: str) -> str:
    pairs = SLIPS if lang == "zh" else SLIPS_EN
    wrong, right = rng.choice(pairs)
    if wrong in text:
        return text.replace(wrong, right, 1)
    at = rng.randrange(len(text))
    return text[:at] + text[at + 1 :] if len(text) > 8 and not text[at].isdigit() else text


def ask(fact: Fact, rng: random.Random, lang: str, plain: bool = False) -> str:
    """One question for a fact, in a wording of its own; `plain` leaves openings and slips away."""
    frames = sections(f"{lang}_frames.txt")
    if fact.item.questions and rng.random() < 0.34:
        text = rng.choice(fact.item.questions).rstrip("?")
        if fact.qualifier:
            text = rng.choice(frames["with_qualifier"]).format(q=fact.qualifier, x=text)
    else:
        pool = frames["any"] if rng.random() < 0.35 else frames[fact.item.frames]
        text = rng.choice(pool).rstrip("？?")
        text = text.format(i=fact.name(rng, lang))
    if not plain and rng.random() < 0.3:
        text = rng.choice(frames["prefix"]) + text
    endings = ("？", "", "？谢谢", "，谢谢") if text[-1] in ASKING else frames["suffix"]
    text += rng.choice(endings)
    if lang == "en" and rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return _slip(text, rng, lang) if not plain and rng.random() < 0.06 else text


def answer(fact: Fact, style: str, paper: str, rng: random.Random, lang: str) -> str:
    """The value with or without its source. `style`: a section of the frames (`answer`, `cited`, `statement`)."""
    frame = rng.choice(sections(f"{lang}_frames.txt")[style])
    name = fact.name(rng, lang, canonical=rng.random() < 0.7)
    text = frame.format(i=name, v=fact.value, d=paper, n=fact.clause)
    if lang == "zh":
        return text.replace("。。", "。")
    text = text.replace("..", ".")
    return text if frame.startswith("{v}") else text[0].upper() + text[1:]


def check(fact: Fact, wrong: str, rng: random.Random, lang: str) -> tuple[str, str]:
    """A question that supposes a value (true or false), and its yes or no."""
    frames = sections(f"{lang}_frames.txt")
    supposed = fact.value if rng.random() < 0.5 else wrong
    question = rng.choice(frames["check"]).format(i=fact.name(rng, lang), w=supposed)
    frame = rng.choice(frames["yes" if supposed == fact.value else "no"])
    return question, frame.format(i=fact.name(rng, lang, canonical=True), v=fact.value, w=supposed)


def not_stated(fact: Fact, rng: random.Random, lang: str) -> str:
    frame = rng.choice(sections(f"{lang}_frames.txt")["negative"])
    return frame.format(i=fact.name(rng, lang, canonical=True))


def same(fact: Fact, rng: random.Random, lang: str) -> str:
    """Two wordings of one question, marked as such."""
    mark = rng.choice(sections(f"{lang}_frames.txt")["same"])
    return f"{ask(fact, rng, lang, plain=True)}\n{mark}{ask(fact, rng, lang, plain=True)}"
