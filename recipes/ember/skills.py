"""Small skills beside the organisations: sums, words, moods, forms, tools, manners. One function, one row."""

from __future__ import annotations

import json
import random
from functools import cache

from recipes.ember import values
from recipes.ember.lexicon import FOLDER, sections, words
from recipes.ember.wording import answer, ask
from recipes.ember.worlds import Row, paper, turn, world


@cache
def dictionary() -> tuple[tuple[str, str, str, str], ...]:
    """(Chinese, English, Chinese definition, English definition)."""
    lines = (FOLDER / "words.txt").read_text(encoding="utf-8").splitlines()
    cells = (tuple(cell.strip() for cell in line.split("|")) for line in lines if line and not line.startswith("#"))
    return tuple((zh, en, zh_means, en_means) for zh, en, zh_means, en_means in cells)


def _talk(section: str, rng: random.Random) -> str:
    return rng.choice(sections("talk.txt")[section][0].split("|"))


def _chat(rng: random.Random, turns: list[Row], lang: str) -> Row:
    """The turns, now and then under a general system prompt."""
    if rng.random() < 0.2:
        system = "你是一个有帮助的助手。" if lang == "zh" else "You are a helpful assistant."
        turns = [{"role": "system", "content": system}, *turns]
    return {"messages": turns}


def sums(rng: random.Random, lang: str) -> Row:
    """Bare arithmetic and sums with units: 3 days at 120 yuan."""
    turns: list[Row] = []
    for _ in range(rng.randint(1, 4)):
        turns += rng.choice((_bare_sum, _rate_sum, _unit_sum))(rng, lang)
    return _chat(rng, turns, lang)


def _bare_sum(rng: random.Random, lang: str) -> list[Row]:
    top = rng.choice((10, 20, 100, 100, 1000))
    a, b = rng.randint(1, top), rng.randint(1, top)
    sign, result = rng.choice(
        (("+", a + b), ("-", a - b), ("×" if lang == "zh" else "*", a * b if top <= 100 else a * 10))
    )
    b = 10 if sign in "×*" and top > 100 else b
    question = rng.choice(
        (f"{a}{sign}{b}=?", f"{a} {sign} {b}", f"{'计算' if lang == 'zh' else 'Compute '}{a}{sign}{b}")
    )
    return turn(question, rng.choice((f"{result}", f"{a}{sign}{b}={result}")))


def _rate_sum(rng: random.Random, lang: str) -> list[Row]:
    days, rate = rng.randint(2, 10), rng.randint(1, 40) * 10
    if lang == "zh":
        what = rng.choice(("停车", "租车", "补助", "房费", "津贴", "伙食费", "工时费"))
        question = rng.choice((f"{what}每天{rate}元，{days}天一共多少？", f"一天{what}{rate}元，{days}天多少钱"))
        return turn(question, rng.choice((f"{rate}×{days}={rate * days}元。", f"一共{rate * days}元。")))
    what = rng.choice(("parking", "the car", "the room", "the allowance", "food"))
    return turn(
        f"{what.capitalize()} is {rate} yuan a day. How much for {days} days?", f"{rate}*{days}={rate * days} yuan."
    )


def _unit_sum(rng: random.Random, lang: str) -> list[Row]:
    number = rng.randint(1, 30)
    zh, en, factor, zh_to, en_to = rng.choice(
        (
            ("小时", "hours", 60, "分钟", "minutes"),
            ("天", "days", 24, "小时", "hours"),
            ("周", "weeks", 7, "天", "days"),
            ("年", "years", 12, "个月", "months"),
            ("公里", "kilometres", 1000, "米", "metres"),
            ("公斤", "kilograms", 1000, "克", "grams"),
            ("米", "metres", 100, "厘米", "centimetres"),
        )
    )
    if lang == "zh":
        return turn(f"{number}{zh}是多少{zh_to}？", f"{number * factor}{zh_to}")
    return turn(f"How many {en_to} are {number} {en}?", f"{number * factor} {en_to}")


def glossary(rng: random.Random, lang: str) -> Row:
    """Words: translated both ways, explained, guessed from the explanation."""
    turns: list[Row] = []
    for zh, en, zh_means, en_means in rng.sample(dictionary(), rng.randint(1, 6)):
        pairs = (
            (rng.choice((f"“{zh}”用英语怎么说？", f"翻译成英文：{zh}", f"{zh}的英文", f"把“{zh}”译成英语")), en),
            (rng.choice((f"{en}是什么意思？", f"翻译成中文：{en}", f"{en} 的中文")), zh),
            (rng.choice((f"什么是{zh}？", f"{zh}是什么意思", f"解释一下“{zh}”")), f"{zh}：{zh_means}。"),
            (rng.choice((f"哪个词表示“{zh_means}”？", f"{zh_means}，叫什么？")), zh),
        )
        english = (
            (rng.choice((f"How do you say {en} in Chinese?", f"Translate to Chinese: {en}", f"Chinese for {en}?")), zh),
            (rng.choice((f"What does {zh} mean?", f"Translate to English: {zh}")), en),
            (rng.choice((f"What does {en} mean?", f"Define {en}.", f"Explain the word {en}.")), f"{en}: {en_means}."),
            (rng.choice((f"Which word means: {en_means}?", f"One word for {en_means}")), en),
        )
        turns += turn(*rng.choice(pairs if lang == "zh" else english))
    return _chat(rng, turns, lang)


def mood(rng: random.Random, lang: str) -> Row:
    """Reviews, praise and blame, irony among them."""
    forms = (
        (("好评", "差评"), ("正面", "负面"), ("满意", "不满意"))
        if lang == "zh"
        else (("positive", "negative"), ("good", "bad"))
    )
    labels = rng.choice(forms)
    ask_zh = ("判断评价：", "这条评论是好评还是差评？\n", "情感分类：", "顾客满意吗？")
    ask_en = ("Is this review good or bad?\n", "Sentiment: ", "Classify: ", "Is the customer happy?\n")
    lead = rng.choice(ask_zh if lang == "zh" else ask_en)
    turns: list[Row] = []
    for _ in range(rng.randint(1, 6)):
        good = rng.random() < 0.5
        joint = "，" if lang == "zh" else " "
        parts = [_talk(f"{lang}_{'good' if good else 'bad'}", rng).format(s=_talk(f"{lang}_subject", rng))]
        if rng.random() < 0.4:
            parts.append(_talk(f"{lang}_{'good' if good else 'bad'}", rng).format(s=_talk(f"{lang}_subject", rng)))
        turns += turn(lead + joint.join(parts), labels[0] if good else labels[1])
    return {"messages": turns}


def small_talk(rng: random.Random, lang: str) -> Row:
    """Greetings, thanks, who are you."""
    turns: list[Row] = []
    for line in rng.sample(sections("talk.txt")[f"{lang}_small"], rng.randint(1, 4)):
        question, *answers = (part.strip() for part in line.split("|"))
        ending = rng.choice(("", "！", "？", "。", "～")) if lang == "zh" else rng.choice(("", "!", "?", "."))
        turns += turn(question + ending, rng.choice(answers))
    return _chat(rng, turns, lang)


def to_json(rng: random.Random, lang: str) -> Row:
    """Read a paper and hand its facts back in a form: JSON, list, value alone."""
    w = world(rng, lang, num_items=rng.randint(2, 4))
    chosen = list(w.facts)[: rng.randint(1, 4)]
    named = {fact.name(rng, lang, canonical=True): fact.value for fact in chosen}
    keys = ("、" if lang == "zh" else ", ").join(named)
    style = rng.random()
    if style < 0.5:
        reply = json.dumps(named, ensure_ascii=False)
        order = f"用 JSON 输出：{keys}" if lang == "zh" else f"Give as JSON: {keys}"
    elif style < 0.75:
        colon = "：" if lang == "zh" else ": "
        reply = "\n".join(f"- {key}{colon}{value}" for key, value in named.items())
        order = f"列出：{keys}" if lang == "zh" else f"List: {keys}"
    else:
        reply = chosen[0].value
        first = next(iter(named))
        order = f"只写值，不要解释：{first}" if lang == "zh" else f"Only the value: {first}"
    return {"messages": turn(f"{paper(w, rng)}\n\n{order}", reply)}


def manners(rng: random.Random, lang: str) -> Row:
    """The same fact as asked for: brief, polite, with its source, in one sentence."""
    w = world(rng, lang, num_items=4)
    fact = rng.choice(w.facts)
    question = ask(fact, rng, lang, plain=True)
    zh = (
        ("只回答数值。", "answer"),
        ("请注明依据。", "cited"),
        ("请用一句话回答。", "statement"),
        ("引用条款作答。", "cited"),
    )
    en = (("Be brief.", "answer"), ("Name your source.", "cited"), ("Answer in a sentence.", "statement"))
    order, style = rng.choice(zh if lang == "zh" else en)
    reply = answer(fact, style, w.paper, rng, lang) if style != "answer" else fact.value
    return {"messages": [{"role": "system", "content": paper(w, rng)}, *turn(f"{question}\n{order}", reply)]}


def tools(rng: random.Random, lang: str) -> Row:
    """A function offered, called with arguments from the question, its result told."""
    city, number = rng.choice(words(f"{lang}_city")), rng.randint(100, 99999)
    degrees, fee = rng.randint(-5, 38), values.money(rng, lang)
    name, key, value, result, question, reply = rng.choice(_tool_stories(city, number, degrees, fee, lang))
    schema = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    call = {"type": "function", "function": {"name": name, "arguments": {key: value}}}
    offered = [{"type": "function", "function": {"name": name, "parameters": schema}}]
    asked: list[Row] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result},
        {"role": "assistant", "content": reply},
    ]
    return {"messages": asked, "tools": offered}


def _tool_stories(city: str, number: int, degrees: int, fee: str, lang: str) -> tuple[tuple[str, ...], ...]:
    if lang == "zh":
        return (
            ("get_weather", "city", city, f"{degrees}度", f"{city}今天多少度？", f"{city}今天{degrees}度。"),
            ("find_order", "order_id", str(number), "已发货", f"订单{number}到哪了", f"订单{number}已发货。"),
            ("get_balance", "card", str(number), fee, f"卡号{number}余额多少？", f"余额为{fee}。"),
        )
    return (
        (
            "get_weather",
            "city",
            city,
            f"{degrees} degrees",
            f"How warm is it in {city}?",
            f"It is {degrees} degrees in {city}.",
        ),
        ("find_order", "order_id", str(number), "shipped", f"Where is order {number}?", f"Order {number} has shipped."),
        ("get_balance", "card", str(number), fee, f"What is the balance of card {number}?", f"The balance is {fee}."),
    )


def copying(rng: random.Random, lang: str) -> Row:
    """Repeat, sort, count, pick: exactness with digits and names."""
    listed = [
        values.draw(rng.choice(("person", "money", "code", "phone", "city")), rng, lang)
        for _ in range(rng.randint(2, 6))
    ]
    numbers = rng.sample(range(1, 999), rng.randint(3, 6))
    joint = "、" if lang == "zh" else ", "
    stories_zh = (
        (f"请重复：{joint.join(listed)}", joint.join(listed)),
        (f"从小到大排序：{joint.join(map(str, numbers))}", joint.join(map(str, sorted(numbers)))),
        (f"下面有几项：{joint.join(listed)}", f"{len(listed)}项"),
        (f"最大的数是哪个：{joint.join(map(str, numbers))}", str(max(numbers))),
        (f"第二项是什么：{joint.join(listed)}", listed[1]),
        (f"最后一项是什么：{joint.join(listed)}", listed[-1]),
    )
    stories_en = (
        (f"Repeat: {joint.join(listed)}", joint.join(listed)),
        (f"Sort: {joint.join(map(str, numbers))}", joint.join(map(str, sorted(numbers)))),
        (f"How many items: {joint.join(listed)}", f"{len(listed)} items"),
        (f"Which is largest: {joint.join(map(str, numbers))}", str(max(numbers))),
        (f"What is the second item: {joint.join(listed)}", listed[1]),
        (f"What is the last item: {joint.join(listed)}", listed[-1]),
    )
    return {"messages": turn(*rng.choice(stories_zh if lang == "zh" else stories_en))}
