"""Invented organisations: a handful of facts, the paper that states them, and the talk about them.

Every text is one of two: a *document* (`{"text": …}`) or a *chat* (`{"messages": […]}`). Three habits are taught on
purpose: read the value from the paper, copy it digit by digit, and answer the same item the same way whatever the
wording (closed book: the paper is not shown, earlier turns are).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from recipes.ember import values
from recipes.ember.lexicon import Item, Setting, groups, kinds, settings, words
from recipes.ember.wording import Fact, answer, ask, check, not_stated, same

Row = dict[str, Any]
OFFICE = ("company", "hr", "finance", "it", "admin", "sales", "rd")
OFFICE_SHARE = 0.45


@dataclass(frozen=True)
class World:
    """One organisation with its paper and facts. `absent` are items of the setting that it says nothing about."""

    lang: str
    name: str
    setting: Setting
    paper: str
    facts: tuple[Fact, ...]
    absent: tuple[Fact, ...]


def _fact(item: Item, qualifier: str, rng: random.Random, lang: str, clause: int) -> Fact:
    return Fact(item, qualifier, values.draw(item.kind, rng, lang), clause)


def world(rng: random.Random, lang: str, num_items: int | None = None) -> World:
    """A new organisation: 3–10 items of its setting, some of them fixed apart for two or three groups."""
    known = settings(lang)
    if rng.random() < OFFICE_SHARE:  # the register that users bring
        known = tuple(setting for setting in known if setting.name in OFFICE)
    setting = rng.choice(known)
    count = min(num_items or rng.randint(3, 10), len(setting.items) - 2)
    chosen = rng.sample(setting.items, count + 2)
    facts: list[Fact] = []
    for clause, item in enumerate(chosen[:count], start=rng.randint(1, 20)):
        group = rng.choice(groups(lang)) if rng.random() < 0.28 else ("",)
        facts += [_fact(item, who, rng, lang, clause) for who in group[: rng.randint(2, 3)]]
    absent = tuple(_fact(item, "", rng, lang, 0) for item in chosen[count:])
    name = _name(setting, rng, lang)
    paper = rng.choice(setting.papers)
    return World(lang, name, setting, paper, tuple(facts), absent)


def _name(setting: Setting, rng: random.Random, lang: str) -> str:
    brand, kind = rng.choice(words(f"{lang}_brand")), rng.choice(kinds(lang, setting.name))
    if lang == "en":
        return f"{brand} {kind}"
    city = rng.choice(words("zh_city")) if rng.random() < 0.3 else ""
    return city + brand + rng.choice(("", "", rng.choice(words("zh_brand")))) + kind


# --- papers -----------------------------------------------------------------------------------------------------


def paper(w: World, rng: random.Random) -> str:
    """The facts as a policy, list, table, letter, notice, FAQ or settings file."""
    return rng.choice((_clauses, _clauses, _list, _table, _letter, _faq, _prose, _json))(w, rng)


def _clauses(w: World, rng: random.Random) -> str:
    lines = [f"{w.name}{w.paper}" if w.lang == "zh" else f"{w.name}: {w.paper}"]
    for fact in w.facts:
        text = answer(fact, "statement", w.paper, rng, w.lang)
        lines.append(f"第{fact.clause}条 {text}" if w.lang == "zh" else f"{fact.clause}. {text}")
    return "\n".join(lines)


def _list(w: World, rng: random.Random) -> str:
    mark = rng.choice(("- ", "* ", "• ", "· "))
    title = f"【{w.name}】{w.paper}" if w.lang == "zh" else f"{w.paper} - {w.name}"
    colon = "：" if w.lang == "zh" else ": "
    return "\n".join([title, *(f"{mark}{fact.name(rng, w.lang)}{colon}{fact.value}" for fact in w.facts)])


def _table(w: World, rng: random.Random) -> str:
    head = ("项目", "标准") if w.lang == "zh" else ("Item", "Rule")
    rows = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    rows += [f"| {fact.name(rng, w.lang)} | {fact.value} |" for fact in w.facts]
    if rng.random() < 0.4:
        rows = [row.strip("| ").replace(" | ", ",") for row in rows if "---" not in row]
    return f"{w.name} {w.paper}\n" + "\n".join(rows)


def _letter(w: World, rng: random.Random) -> str:
    body = "".join(answer(fact, "statement", w.paper, rng, w.lang) + "\n" for fact in w.facts)
    sender = values.person(rng, w.lang)
    if w.lang == "zh":
        opening = rng.choice(("各位同事：", "大家好，", "尊敬的用户：", "各位朋友，大家好！", "通知如下："))
        return f"主题：{w.name}{w.paper}更新\n{opening}\n{body}如有疑问请联系{sender}。"
    opening = rng.choice(("Dear all,", "Hello everyone,", "Dear guests,", "Hi team,"))
    return f"Subject: {w.name}, {w.paper}\n{opening}\n{body}Kind regards,\n{sender}"


def _faq(w: World, rng: random.Random) -> str:
    marks = rng.choice((("问：", "答："), ("Q：", "A："))) if w.lang == "zh" else ("Q: ", "A: ")
    style = rng.choice(("answer", "cited"))
    pairs = [
        f"{marks[0]}{ask(fact, rng, w.lang, plain=True)}\n{marks[1]}{answer(fact, style, w.paper, rng, w.lang)}"
        for fact in w.facts
    ]
    return f"{w.name} {'常见问题' if w.lang == 'zh' else 'FAQ'}\n" + "\n".join(pairs)


def _prose(w: World, rng: random.Random) -> str:
    text = ("" if w.lang == "zh" else " ").join(answer(fact, "statement", w.paper, rng, w.lang) for fact in w.facts)
    return f"《{w.paper}》（{w.name}）\n{text}" if w.lang == "zh" else f"{w.name}, {w.paper}. {text}"


def _json(w: World, rng: random.Random) -> str:
    pairs = ", ".join(f'"{fact.name(rng, w.lang)}": "{fact.value}"' for fact in w.facts)
    return f'{{"{"名称" if w.lang == "zh" else "name"}": "{w.name}", {pairs}}}'


# --- talk -------------------------------------------------------------------------------------------------------


def turn(question: str, reply: str) -> list[Row]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def _system(w: World, rng: random.Random) -> list[Row]:
    if rng.random() < 0.5:
        return []
    zh = (
        f"你是{w.name}的助手。",
        f"你负责回答{w.name}的问题，请简短。",
        "请根据规定回答。",
        f"{w.name}问答",
        "你是一个有帮助的助手。",
    )
    en = (f"You are the assistant of {w.name}.", f"Answer questions about {w.name}.", "Be brief.", "You help people.")
    return [{"role": "system", "content": rng.choice(zh if w.lang == "zh" else en)}]


def _style(rng: random.Random) -> str:
    return rng.choice(("answer", "answer", "cited", "cited", "statement"))


def _wrong(w: World, fact: Fact, rng: random.Random) -> str:
    others = [other.value for other in w.facts if other.value != fact.value and other.item.kind == fact.item.kind]
    return rng.choice(others) if others and rng.random() < 0.6 else values.draw(fact.item.kind, rng, w.lang)


def reading_chat(w: World, rng: random.Random) -> Row:
    """The paper lies open (system or first user turn); values, yes or no, and what it does not say."""
    text, style = paper(w, rng), _style(rng)
    turns: list[Row] = []
    for _ in range(rng.randint(1, 5)):
        turns += _open_turn(w, style, rng)
    if rng.random() < 0.5:
        lead = rng.choice(("请根据以下资料回答。\n", "资料：\n", "", "你是客服，只依据下文作答：\n"))
        lead = lead if w.lang == "zh" else rng.choice(("Use only this text:\n", "", "Document:\n"))
        return {"messages": [{"role": "system", "content": lead + text}, *turns]}
    joint = rng.choice(("\n\n", "\n问题：" if w.lang == "zh" else "\nQuestion: ", "\n"))
    question = turns[0]["content"]
    first = text + joint + question if rng.random() < 0.7 else f"{question}\n\n{text}"
    return {"messages": [{"role": "user", "content": first}, *turns[1:]]}


def _open_turn(w: World, style: str, rng: random.Random) -> list[Row]:
    roll, fact = rng.random(), rng.choice(w.facts)
    if roll < 0.12:
        missing = rng.choice(w.absent)
        return turn(ask(missing, rng, w.lang), not_stated(missing, rng, w.lang))
    if roll < 0.24:
        wrong = _wrong(w, fact, rng)
        if wrong != fact.value:
            return turn(*check(fact, wrong, rng, w.lang))
    return turn(ask(fact, rng, w.lang), answer(fact, style, w.paper, rng, w.lang))


def again_chat(w: World, rng: random.Random) -> Row:
    """Closed book: each fact is told once, then asked again and again in other words, shuffled."""
    style = _style(rng)
    facts = list(w.facts)[: rng.randint(3, 8 if w.lang == "zh" else 6)]
    turns: list[Row] = []
    for fact in facts:
        turns += turn(ask(fact, rng, w.lang), answer(fact, style, w.paper, rng, w.lang))
    for _ in range(rng.randint(1, 3)):
        rng.shuffle(facts)
        for fact in facts:
            if rng.random() < 0.12 and (wrong := _wrong(w, fact, rng)) != fact.value:
                turns += turn(*check(fact, wrong, rng, w.lang))
            else:
                turns += turn(ask(fact, rng, w.lang), answer(fact, style, w.paper, rng, w.lang))
    return {"messages": [*_system(w, rng), *turns]}


def again_text(w: World, rng: random.Random) -> Row:
    """The same as a plain list of questions and answers."""
    marks = ("问：", "答：") if w.lang == "zh" else ("Q: ", "A: ")
    order = [fact for fact in w.facts for _ in range(rng.randint(2, 4))]
    rng.shuffle(order)
    lines = [paper(w, rng), ""] if rng.random() < 0.4 else []
    for fact in order[: 24 if w.lang == "zh" else 16]:
        lines.append(f"{marks[0]}{ask(fact, rng, w.lang)}\n{marks[1]}{answer(fact, 'answer', w.paper, rng, w.lang)}")
    return {"text": "\n".join(lines)}


def wordings_text(w: World, rng: random.Random) -> Row:
    """Which questions mean the same: pairs, groups under the item's name, and name-the-item."""
    roll = rng.random()
    if roll < 0.4:
        return {"text": "\n".join(same(fact, rng, w.lang) for fact in w.facts)}
    colon = "：" if w.lang == "zh" else ": "
    groups = []
    for fact in w.facts:
        asked = [ask(fact, rng, w.lang, plain=True) for _ in range(rng.randint(2, 5))]
        groups.append(f"{fact.name(rng, w.lang, canonical=True)}{colon}" + " / ".join(asked))
    return {"text": "\n".join(groups)}


def same_item_chat(w: World, rng: random.Random) -> Row:
    """Name the item that a question is about; say whether two questions ask the same; put it in other words."""
    turns: list[Row] = []
    zh = w.lang == "zh"
    for _ in range(rng.randint(2, 5)):
        fact, other = rng.choice(w.facts), rng.choice(w.facts)
        question = ask(fact, rng, w.lang, plain=True)
        roll = rng.random()
        if roll < 0.35:
            lead = rng.choice(("这句话问的是哪一项？", "问题属于哪个项目？", "提取事项：", "这是在问什么？"))
            lead = (
                lead if zh else rng.choice(("Which item is this about? ", "Name the item: ", "Topic of the question: "))
            )
            turns += turn(lead + question, fact.name(rng, w.lang, canonical=True))
        elif roll < 0.7:
            second, alike = _second(fact, other, rng, w.lang)
            lead = "这两个问题意思一样吗？\n" if zh else "Do these ask the same thing?\n"
            reply = ("一样。", "不一样。") if zh else ("Yes.", "No.")
            turns += turn(f"{lead}1. {question}\n2. {second}", reply[0] if alike else reply[1])
        else:
            lead = (
                rng.choice(("换个说法：", "请改写：", "用另一句话问："))
                if zh
                else rng.choice(("Rephrase: ", "Ask it differently: "))
            )
            turns += turn(lead + question, ask(fact, rng, w.lang, plain=True))
    return {"messages": turns}


def _second(fact: Fact, other: Fact, rng: random.Random, lang: str) -> tuple[str, bool]:
    """A second question and whether it asks for the first one's fact."""
    alike = rng.random() < 0.5 or other == fact
    return ask(fact if alike else other, rng, lang, plain=True), alike


def famous_rows(rng: random.Random, lang: str, num_rows: int) -> list[Row]:
    """One organisation over many separate chats, paper never shown: its facts must be kept in the weights."""
    w = world(rng, lang, num_items=rng.randint(5, 9))
    system = {
        "role": "system",
        "content": f"你是{w.name}的助手。" if lang == "zh" else f"You are the assistant of {w.name}.",
    }
    style = rng.choice(("answer", "cited"))
    rows: list[Row] = [{"text": paper(w, rng)}]
    for _ in range(num_rows):
        fact = rng.choice(w.facts)
        turns = turn(ask(fact, rng, lang), answer(fact, style, w.paper, rng, lang))
        if rng.random() < 0.3:
            other = rng.choice(w.facts)
            turns += turn(ask(other, rng, lang), answer(other, style, w.paper, rng, lang))
        rows.append({"messages": [system, *turns]})
    return rows
