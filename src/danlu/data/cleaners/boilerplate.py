"""boilerplate: what pages, forums and exports leave behind: whole lines that say nothing, tracking in links, images
written as text. Lines are taken out of documents only, for in an answer "read more" may be good advice; and a text
that is nothing else stays as it is: to empty it is not this stage's decision.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.joined import Page, Places, Texts
from danlu.data.sample import Document, Sample
from danlu.data.stage import Fate, Outcome, spread
from danlu.data.texts import with_texts

_PHRASES = (
    r"点击(?:这里|此处|下方|上方)?(?:展开|查看|阅读|下载|加载)(?:全文|全部|更多|原文|详情)?",
    r"展开(?:全文|阅读全文)|(?:阅读|查看)(?:全文|原文|更多)",
    r"(?:长按|扫描?|识别)(?:上方|下方|左侧|右侧)?(?:图中)?二维码.{0,20}",
    r"(?:扫码|点击)?关注(?:我们|公众号|微信公众号).{0,20}",
    r"(?:分享到|分享至)[:：]?(?:\s*(?:微信|微博|朋友圈|qq|qq空间|新浪微博))*",
    r"(?:上一篇|下一篇|上一页|下一页|返回(?:顶部|首页|列表))[:：]?.{0,40}",
    r"(?:责任编辑|责编|编辑|校对|审核|来源|文章来源|稿源)[:：].{0,20}",
    r"(?:版权所有|©|copyright\b|\(c\)\s*\d{4}).{0,60}",
    r"未经.{0,10}(?:授权|许可|允许).{0,10}(?:不得|禁止|严禁)?.{0,4}转载.{0,20}",
    r"本文(?:仅代表作者|来自|转载自).{0,40}|免责声明[:：]?|相关(?:阅读|推荐|文章)[:：]?",
    r"(?:京|沪|粤|浙|苏|津|渝)ICP[备证].{0,30}",
    r"all\s+rights\s+reserved\.?",
    r"click\s+(?:here\s+)?to\s+(?:read|see|view|expand|continue|load).{0,20}",
    r"(?:read|show|view|load)\s+(?:more|less)",
    r"(?:share|tweet|pin)\s+(?:this|on)(?:\s+(?:facebook|twitter|linkedin|x|reddit|page|post))?.{0,10}",
    r"subscribe\s+to\s+(?:our|the)\s+newsletter.{0,20}",
    r"(?:sign|log)\s+(?:up|in)\s+to\s+(?:continue|read|comment).{0,20}",
    r"(?:we|this\s+(?:web)?site)\s+uses?\s+cookies.{0,120}",
    r"back\s+to\s+top|skip\s+to\s+(?:main\s+)?content|previous\s+post|next\s+post",
)
_LINES = re.compile(
    rf"^[ \t>*#\-\[【(（|]*(?:{'|'.join(_PHRASES)})[ \t>*#\]】)）|。.…»>]*$", re.IGNORECASE | re.MULTILINE
)
_CUES = re.compile(
    r"点击|展开|阅读|查看|二维码|关注|分享|一篇|一页|返回|编辑|责编|校对|审核|来源|稿源|版权|©|转载|本文|声明|相关|ICP|copyright"
    r"|\(c\)|reserved|click|more|less|share|tweet|pin|newsletter|continue|comment|cookies|back to|skip to|post",
    re.IGNORECASE,
)
_TRACKING = re.compile(
    r"(?P<mark>[?&])(?:(?:utm_\w+|spm|fbclid|gclid|from_source|share_token|vd_source)=[^&\s\"'<>()（）]*&?)+"
)
_IMAGES = re.compile(
    r"!\[[^\]\n]{0,200}\]\(data:[^)\s]{0,10000000}\)|data:image/[a-z+.\-]{2,20};base64,[A-Za-z0-9+/=]{64,}"
    r"|\[(?:图片|表情|image|photo)\]",
    re.IGNORECASE,
)
_SPACES = re.compile(r"&(?:amp;)?nbsp;|&(?:amp;)?(?:ensp|emsp|thinsp);")
_BEGUN = {"&": "netausfgv", "?": "usfgv", "[": "图表iIıİpP"}
"""What stands behind the mark that a match of these three begins with; ı and İ are `i` where case is ignored."""
_BLANKS = re.compile(r"\n{3,}")


class Boilerplate:
    name = "boilerplate"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        return spread(self.touch(Texts(samples)), samples)

    def touch(self, texts: Texts) -> dict[int, Outcome]:
        told: dict[int, Outcome] = {}
        for page in texts.pages():
            rows = page.rows if _has_lines(texts, page) else texts.suspects_in(page, _residue_at(page))
            for row in rows:
                sample = texts.samples[row]
                if sample is not None and (outcome := _told(sample, texts.of(row))):
                    told[row] = outcome
        return told


def _has_lines(texts: Texts, page: Page) -> bool:
    """Whether there are documents, whose lines are looked at one by one."""
    return any(isinstance(texts.samples[row], Document) for row in page.rows)


def _told(sample: Sample, texts: Sequence[str]) -> Outcome | None:
    found = [_mended(text, isinstance(sample, Document)) for text in texts]
    num_lines, num_bits = sum(lines for _, lines, _ in found), sum(bits for *_, bits in found)
    if not num_lines and not num_bits:
        return None
    fates = [Fate("change", "boilerplate", {"num": num_lines})] if num_lines else []
    fates += [Fate("change", "residue", {"num": num_bits})] if num_bits else []
    return with_texts(sample, [text for text, *_ in found]), tuple(fates)


def _residue_at(page: Page) -> Places:
    """Where `_TRACKING`, `_IMAGES` or `_SPACES` may match: at a mark with a letter of theirs behind, or at `data:`."""
    units, places = page.units, page.at_any("".join([":", *_BEGUN]))
    marks, letters = _bits()
    is_found = (marks[units[places]] & letters[units[places + 1]]) > 0  # the last unit of a page is a break
    is_data = units[places] == ord(":")
    for back, letter in enumerate("atad", start=1):
        is_data &= units[np.maximum(places - back, 0)] | 0x20 == ord(letter)
    found: Places = places[is_found | is_data]
    return found


@functools.cache
def _bits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """For each unit its bit, if it is a mark of `_BEGUN`, and the bits of all marks behind which it begins a match."""
    marks, letters = np.zeros(65536, np.uint8), np.zeros(65536, np.uint8)
    for number, (mark, begun) in enumerate(_BEGUN.items()):
        marks[ord(mark)] = 1 << number
        for letter in begun:
            letters[ord(letter)] |= 1 << number
    return marks, letters


def _mended(text: str, has_lines: bool) -> tuple[str, int, int]:
    """(text, lines taken out, links and images mended); as it was where nothing would be left."""
    fresh, num_lines, num_bits = text, 0, 0
    if has_lines and "\n" in text and _CUES.search(text):
        fresh, num_lines = _LINES.subn("", fresh)
    if "=" in text or "[" in text or "&" in text:
        for pattern, into in ((_TRACKING, _kept_mark), (_IMAGES, ""), (_SPACES, " ")):
            if pattern is _SPACES and ("<" in text or "```" in text):
                continue  # about markup: an entity may be what it speaks of
            fresh, num = pattern.subn(into, fresh)
            num_bits += num
    if not num_lines and not num_bits:
        return text, 0, 0
    if num_lines:
        fresh = _BLANKS.sub("\n\n", fresh).strip("\n")
    return (fresh, num_lines, num_bits) if fresh.strip() else (text, 0, 0)


def _kept_mark(match: re.Match[str]) -> str:
    """The question mark stays where other parameters follow."""
    follows = match.string[match.end() : match.end() + 1]
    return match["mark"] if match[0].endswith("&") and follows and follows not in " \t\n\"'<>()（）" else ""
