"""Chinese names by cue: behind `姓名：`, `联系人`, `患者`, in front of `先生`, `女士`; minority names with ·.

Not a recogniser of names in free prose: without a cue, a dictionary of known people or a model, a name stays unseen.
How many are missed is measured and published (bench/pii.py).
"""

from __future__ import annotations

import re

from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.words import letters, words

SURNAMES = frozenset(letters("surnames_zh")) - {" "}
COMPOUND = words("surnames_zh")[1]
GIVEN = frozenset(letters("given_zh"))
_RISKY = frozenset(
    "高常于方白黄严安时全平都和成万向任应曾易武司管水石毛牛马江温和强连明曲车年游计别相商官单解代保同查关温路阳甄项习台伏岑古家有"
)
"""Surnames that begin everyday words: behind a weak cue they need a whole given name and an end."""
_LABELS = (
    "姓名|名字叫|名字是|联系人|收件人|收货人|寄件人|发件人|户名|开户人|持卡人|法定代表人|法人代表|法人|经办人|负责人|申请人|被保险人|投保人|受益人|"
    "当事人|委托人|代理人|监护人|家属|紧急联系人|主治医师|主治医生|经治医师|签名|签字|审核人|复核人|制表人|我叫|他叫|她叫|名叫|叫做|我是|本人|"
    "原告|被告人|被告|上诉人|被上诉人|审判长|审判员|书记员|公证员|作者|讲师|车主|机主|房东|租客|出租方|承租方|甲方|乙方"
)
_WEAK = (
    "联系|患者|病人|病员|客户|用户|顾客|员工|同事|学生|同学|医生|医师|护士|律师|法官|教授|经理|"
    "主任|老师|嫌疑人|受害人|业主|会员|住户|老人|队员|董事长|总经理|总裁"
)
_JOIN = "[ \t]{0,2}(?:[:：为是]|叫做?)?[ \t]{0,2}"
_CUE = re.compile(f"(?:(?P<label>{_LABELS})|(?P<weak>{_WEAK}))(?P<join>{_JOIN})")
_TITLES = "先生|女士|小姐|太太|同志|师傅|阿姨|大爷|大妈"
_OFFICES = "医生|医师|律师|老师|教授|经理|主任|法官|护士|队长|院长|校长"
_TITLE = re.compile(f"{_TITLES}|(?P<office>{_OFFICES})")
_MINORITY = re.compile(r"[\u4e00-\u9fff]{2,8}(?:[·•‧・][\u4e00-\u9fff]{2,8}){1,3}")
_END = frozenset(
    "，。；：、！？,.;:!?()（）[]【】《》<>“”\"'‘’ \t\r\n\u3000/|-—"
    "的在是于和与及说电身住家手男女因从到已向将被为先等也就还又称告诉对把要去有没我你他她您性年出生号联地邮微病患诊入自即此该系任担其并给让请或跟同"
)
_ENDS_AFTER = frozenset(
    "的在是于和与及说电身住家手男女因从到已向将被为先等也就还又称对把要去有没我你他她您性号联邮微病患诊入即该系给让请或跟来走问答表曾现昨今上下前后近反认感觉早晚主由需应可能会想做发服用接送签购买付收取拿出入"
)
_CUE_LEFT = re.compile(f"(?:{_LABELS}|{_WEAK}){_JOIN}(?P<first>[\u4e00-\u9fff]{{2,8}})$")
_SURNAME_CLASS = "".join(sorted(SURNAMES | {name[0] for name in COMPOUND}))
_SURNAME = f"(?:{'|'.join(sorted(COMPOUND))}|[{''.join(sorted(SURNAMES))}])"
_GIVEN_CLASS = "".join(sorted(GIVEN - {" "}))
_CALLED = "|".join(label for label in _LABELS.split("|") if label[-1] == "叫")
_DOTS = frozenset("·•‧・")
_LIST_JOIN = re.compile("[、和与及,，]")


class ChineseNames:
    name = "names_zh"
    version = 1
    pattern = (
        f"(?:{_LABELS})[ \t]{{0,2}}[:：][ \t]{{0,2}}[\u4e00-\u9fff]|(?:{_LABELS}|{_WEAK}){_JOIN}[{_SURNAME_CLASS}]|"
        f"{_TITLES}|[·•‧・][\u4e00-\u9fff]"
    )
    gate = (  # as `read_name` wants it: a surname, and what given names are made of; titles are rare by themselves
        f"(?:{_LABELS}|{_WEAK}){_JOIN}(?:{_SURNAME}[{_GIVEN_CLASS}]|[\u4e00-\u9fff]{{2,8}}[·•‧・][\u4e00-\u9fff])|"
        f"(?:(?:{_LABELS})[ \t]{{0,2}}[:：为][ \t]{{0,2}}|(?:{_CALLED}){_JOIN}){_SURNAME}[\u4e00-\u9fff]|"
        f"{_TITLES}|(?:{_OFFICES}){_JOIN}[{_SURNAME_CLASS}]"
    )
    opens = "·•‧・" + "".join(sorted({word[0] for word in f"{_LABELS}|{_WEAK}|{_TITLES}".split("|")}))

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        if spot.text[spot.start] in "·•‧・":
            return self._across(spot)
        cue = _CUE.match(spot.text, spot.start, spot.high)
        if cue is not None:
            found = self._behind(spot, cue)
            if found:
                return found, found[-1].end
        title = _TITLE.match(spot.text, spot.start, spot.high)
        if title is not None:
            named = self._before(spot, title)
            if named is not None:
                return [named], title.end()
        if cue is not None:
            return [], cue.end() if cue.end() > cue.start() else spot.start + 1
        return [], spot.start + 1 if title is not None else spot.start

    def _behind(self, spot: Spot, cue: re.Match[str]) -> list[Finding]:
        """The name behind a cue, and those listed after it: `联系人：张三、李四`."""
        is_label = bool(cue["label"]) and (cue["join"].strip() in (":", "：", "为") or cue["label"][-1] == "叫")
        found, begin = [], cue.end()
        while True:
            end = read_name(spot.text, begin, spot.high, is_label=is_label)
            if end is None:
                break
            score = 0.85 if cue["join"].strip() and cue["label"] else 0.7
            found.append(Finding(begin, end, "name", score, self.name, spot.text[begin:end]))
            if end >= spot.high or not _LIST_JOIN.match(spot.text[end]) or len(found) == 12:
                break
            begin, is_label = end + 1, False
        return found

    def _across(self, spot: Spot) -> tuple[list[Finding], int]:
        """A minority name, whose first part stands left of the dot, behind a cue."""
        cue = _CUE_LEFT.search(spot.before(24))
        if cue is None:
            return [], spot.start + 1
        begin = spot.start - len(cue["first"])
        name = _MINORITY.match(spot.text, begin, spot.high)
        if name is None:
            return [], spot.start + 1
        return [Finding(begin, name.end(), "name", 0.85, self.name, name[0])], name.end()

    def _before(self, spot: Spot, title: re.Match[str]) -> Finding | None:
        left = spot.before(5)
        for size in (4, 3, 2):
            name = left[-size:]
            if len(name) == size and _is_full_name(name, may_be_risky=not title["office"]):
                return Finding(spot.start - size, spot.start, "name", 0.75, self.name, name)
        if left[-1:] in SURNAMES - _RISKY and not title["office"] and left[-2:-1] != "任":
            return Finding(spot.start - 1, spot.start, "name", 0.55, self.name, left[-1])
        return None


def _is_full_name(name: str, *, may_be_risky: bool) -> bool:
    surname = name[:2] if name[:2] in COMPOUND else name[0]
    given = name[len(surname) :]
    return (
        (surname in COMPOUND or surname in SURNAMES)
        and 1 <= len(given) <= 2
        and all(c in GIVEN for c in given)
        and (surname not in _RISKY or len(given) == 2 or (may_be_risky and given not in SURNAMES))
    )


def read_name(text: str, begin: int, high: int, *, is_label: bool) -> int | None:
    """Where the name that begins at `begin` ends; None when there is none.

    Behind a label any two to four characters up to an end are a name if a surname leads; behind a weak cue the given
    name has to be made of letters that given names are made of.
    """
    piece = text[begin : min(high, begin + 12)]
    if not _DOTS.isdisjoint(piece) and (minority := _MINORITY.match(text, begin, high)) is not None:
        return minority.end()
    surname = piece[:2] if piece[:2] in COMPOUND else piece[:1]
    if surname not in COMPOUND and surname not in SURNAMES:
        return None
    for num_given in (2, 1):
        end = begin + len(surname) + num_given
        given = text[begin + len(surname) : end]
        if end > high or "某" in given or not (min(given) >= "\u4e00" and max(given) <= "\u9fff"):
            continue  # 某 stands where somebody has taken the name out already
        follows = text[end] if end < high else ""
        is_ended = follows == "" or not ("\u4e00" <= follows <= "\u9fff") or follows in _ENDS_AFTER
        is_known = given[0] in GIVEN and given[-1] in GIVEN
        if is_known and is_ended and not (surname in _RISKY and not is_label and num_given == 1):
            return end
        is_free = is_label and surname not in _RISKY and _END.isdisjoint(given)
        if is_free and (follows == "" or not ("\u4e00" <= follows <= "\u9fff") or (is_ended and num_given == 2)):
            return end
    return None
