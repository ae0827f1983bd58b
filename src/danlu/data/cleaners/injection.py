"""injection: rows that try to override instructions, to draw out a hidden prompt, or to pass for another role.

Sought in text without case, width, marks and spaces, so spacing letters out hides nothing. Only phrases that an honest
row hardly holds; a phrase in an answer or a document counts like one in a question, for a model learns from all.
Control tokens are sought as they are written: the encoder takes them as text, so they are no danger, but a row that
holds them was made to cross roles or is the log of another model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from danlu.data.cleaners.cleaner import Batch, Cues, Finding
from danlu.data.joined import Laid, Places

_WHOSE = "之前|先前|以前|以上|上面|前面|前述|上述|此前|刚才|所有|一切|全部|任何|原有|系统|你的|您的|既定|预设"
_RULES = "指令|指示|提示词|系统提示|提示|规则|设定|限制|命令|约束|规定|准则|要求"
_EN_WHOSE = "previous|prior|above|earlier|preceding|foregoing|existing|initial|original|system|your|former|past"
_EN_RULES = "instruction|prompt|rule|guideline|direction|command|constraint|restriction|programming|directive"
_OVERRIDE = re.compile(
    rf"(?:忽略|忽视|无视|忘记|忘掉|忘却|不要理会|不用理会|别理会|不必遵守|不要遵守|不再遵守|抛弃|丢弃|覆盖|撤销|绕过)"
    rf"(?:掉|了|你|您|请|在|这|那|我)?(?:(?:收到|接到|得到|被告知)的)?(?:{_WHOSE})(?:给|的|你|您|我|所|有|收到|全部|一切|任何|系统|这些|那些|说|讲|过|到|之前|以上)*(?:{_RULES})"
    rf"|(?:ignore|disregard|forget|override|overlook|bypass|neglect|discard)(?:all|any|every|everything|the|of|these|those|my|about)*"
    rf"(?:{_EN_WHOSE})(?:and|or|{_EN_WHOSE}|safety|given|the|all|set|of|user|developer)*(?:{_EN_RULES})"
    rf"|(?:ignore|disregard|forget)everything(?:above|before|youwere|youhavebeen|ihavesaid|isaid)"
    rf"|(?:donot|dont|stop)follow(?:ing)?(?:the|any|your|all|of)*(?:{_EN_WHOSE})(?:{_EN_RULES})"
)
_FREE = "没有任何限制|不受任何限制|没有限制|不受限制|无限制"
_SAFETY = "安全|道德|伦理|内容|审查|过滤|内置"
_MODES = "dan|jailbreak|god|sudo|unrestricted"
_UNBOUND = re.compile(
    rf"你现在(?:是|扮演|进入|处于|变成|已经?是)\w{{0,8}}?(?:dan|开发者模式|越狱|上帝模式|{_FREE})"
    r"|(?:进入|开启|启用|激活|切换到)(?:dan|越狱|上帝|无限制|无审查)模式"
    r"|(?:解除|绕过|关闭|突破|取消|移除|无视)(?:你|您)的?(?:所有|一切|全部|任何)?的?"
    rf"(?:{_SAFETY})(?:限制|审查|过滤|机制|约束|准则|策略|护栏)"
    rf"|(?<!not)(?<!nt)(?<!never)doanythingnow|gptwithdevelopermode|(?:{_MODES})mode(?:enabled|activated|isnow)|(?:enter|enable|activate|switchto|turnon)(?:{_MODES})mode"
    r"|youare(?:now)?(?:dan(?![a-z])|an?(?:unrestricted|unfiltered|uncensored|jailbroken|amoral)"
    r"(?:ai|assistant|model|chatbot|bot))"
    r"|(?:pretend|imagine|act)(?:that|asif|like)?you(?:have|had|donothave|donthave|arefreefrom)(?:no|any)"
    r"(?:restriction|filter|guideline|rule)"
    r"|(?:free|freed)from(?:all|any|the|typical|usual)*(?:restriction|confine|limitation|guideline)s?of(?:ai|openai)"
)
_DRAW_OUT = re.compile(
    r"(?:输出|告诉我|重复|复述|显示|泄露|打印|透露|说出|给我看|公开)(?:一下|出|一遍)?(?:你|您)的?"
    r"(?:全部|完整|所有|原始|初始|隐藏|内部|系统)*的?"
    r"(?:系统提示|提示词|系统指令|初始指令|隐藏指令|内部指令|初始设定|系统消息)"
    r"|(?:reveal|print|show|repeat|output|leak|display|tell|give|expose|disclose)(?:me|us)?"
    r"(?:all|the|your|of|full|entire|exact|complete|hidden|secret|initial|original|whole)*"
    r"(?:systemprompt|systemmessage|hiddenprompt|secretprompt|initialprompt|initialinstruction|systeminstruction|hiddeninstruction)"
    r"|(?:repeat|say|write|print|output)(?:the|this)(?:following)?(?:words?|text|letter)\w{1,20}(?:forever|infinitely|nonstop)"
    r"|(?:永远|无限|不停地?|一直不停地?)(?:重复|输出|复述)(?:这个|下面|以下|单词|词|字)"
)
_TOKENS = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|begin_of_text|system|user|assistant|end)\|>"
    r"|\[/?INST\]|<</?SYS>>|</?start_of_turn>|<end_of_turn>|<｜(?:User|Assistant|begin▁of▁sentence|end▁of▁sentence)｜>"
    r"|^#{2,3} ?(?:Instruction|Response|System Prompt) ?:[ \t]*$",
    re.M,
)
_BEGUN = (("<", "|<s/e｜"), ("[", "I/"), ("#", "#"))
_DRAWING = "reveal|print|show|repeat|output|leak|display|tell|give|expose|disclose"
_OF_WHOM = "me|us|all|the|your|of|full|entire|exact|complete|hidden|secret|initial|original|whole|system"
_CUES = Cues(
    *(
        verb + what
        for verb in ("忽略", "忽视", "无视", "忘记", "忘掉", "忘却", "抛弃", "丢弃", "覆盖", "撤销", "绕过")
        for what in {*"掉了你您请在这那我收接得被", *(whose[0] for whose in _WHOSE.split("|"))}
    ),
    *("不要理会", "不用理会", "别理会", "不必遵守", "不要遵守", "不再遵守"),
    *("ignore", "disregard", "forget", "override", "overlook", "bypass", "neglect", "discard"),
    *("donotfollow", "dontfollow", "stopfollow"),
    *(
        verb + mode
        for verb in ("进入", "开启", "启用", "激活", "切换到")
        for mode in ("dan", "越狱", "上帝", "无限", "无审")
    ),
    *("你现在", *(verb + whom for verb in ("解除", "绕过", "关闭", "突破", "取消", "移除", "无视") for whom in "你您")),
    *("doanythingnow", "gptwithdeveloper", *(mode + "mode" for mode in _MODES.split("|"))),
    *(verb + mode for verb in ("enter", "enable", "activate", "switchto", "turnon") for mode in _MODES.split("|")),
    *("youare", "pretend", "imagine", "actyou", "actthatyou", "actasifyou", "actlikeyou", "freefrom", "freedfrom"),
    *(
        verb + what
        for verb in ("告诉我", "给我看", "输出", "重复", "复述", "显示", "泄露", "打印", "透露", "说出", "公开")
        for what in "一出你您"
    ),
    *(how + what for how in ("永远", "无限", "不停", "不停地", "一直不停") for what in "重输复地"),
    *(verb + whom for verb in _DRAWING.split("|") for whom in _OF_WHOM.split("|")),
    *(verb + what for verb in ("repeat", "say", "write", "print", "output") for what in ("the", "this")),
)
_ANY = re.compile(
    f"(?P<injection>{_OVERRIDE.pattern})|(?P<jailbreak>{_UNBOUND.pattern})|(?P<prompt_theft>{_DRAW_OUT.pattern})"
)


class Injection:
    name = "injection"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        for folded in (batch.folded_asked, batch.folded_body):
            for row, match, _ in folded.search(_ANY, _CUES):
                found.setdefault(row, Finding(match.lastgroup or ""))
        for text in batch.texts_at(_token_at(batch.laid)):
            if _TOKENS.search(batch.laid.flat[text]):
                found.setdefault(text >> 1, Finding("role_tokens"))
        return found


def _token_at(laid: Laid) -> Places:
    """Where a control token may begin: a mark, and what comes behind it in one of `_TOKENS`."""
    units, places = laid.units, laid.at_any("".join([mark for mark, _ in _BEGUN]))
    marks, behind = units[places], units[places + 1]  # the last unit is a break
    is_begun = np.zeros(len(places), bool)
    for mark, letters in _BEGUN:
        for letter in letters:
            is_begun |= (marks == ord(mark)) & (behind == ord(letter))
    found: Places = places[is_begun]
    return found
