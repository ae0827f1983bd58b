"""Chinese addresses: a street and number with the divisions in front of it, or whatever stands behind `住址：`.

Divisions are those of GB/T 2260, past and present; a name may change its last letter (县 to 区) and still be known.
A full address has two levels of division; one level and a house number are enough for a lower score.
"""

from __future__ import annotations

import functools
import re

from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.words import words

_NUM = "0-9０-９一二三四五六七八九十百甲乙丙丁"
_WAYS = "路|街|大道|道|巷|弄|胡同|里|条|村|庄|屯|苑|园|小区|花园|新村|家园|社区|大厦|公寓|广场|坊|堡|镇|乡|组|段"
_CUES = (
    "家庭住址|家庭地址|居住地址|现住址|住址|通讯地址|通信地址|收货地址|送货地址|寄件地址|"
    "联系地址|户籍地址|户籍所在地|户籍地|居住地|详细地址|地址|家住|现住|住在|居住在|居住于|暂住"
)
_ANCHOR = re.compile(f"(?:{_WAYS})[{_NUM}]{{1,6}}(?:号|弄|巷|栋|幢|座|组|队|社)")
_CUE = re.compile(f"(?:{_CUES})[ \t]{{0,2}}(?:[:：为是在于])?[ \t]{{0,2}}")
_UNIT = f"[{_NUM}A-Za-z-]{{1,6}}(?:号楼|号院|号|栋|幢|座|单元|室|楼|层|门|户|房|弄|支弄|组|队|社|院|排)"
_TAIL = re.compile(
    f"(?:{_UNIT}|[\u4e00-\u9fff]{{2,8}}?(?:小区|花园|大厦|广场|公寓|家园|新村|宿舍|苑|园|中心|大楼|写字楼|家属院){_UNIT}|[0-9]{{1,4}}(?:-[0-9]{{1,4}}){{1,3}})"
)
_ROOM = re.compile("[0-9]{2,4}(?![0-9年月日元])")
_BODY = re.compile("[\u4e00-\u9fff0-9０-９A-Za-z·-]{4,60}")
_LAST_MARK = re.compile(
    f".*(?:[号栋幢座室楼层户房弄组队社院]|单元|[路街巷村庄屯镇乡道苑园]|小区|花园|大厦|公寓|[{_NUM}]{{1,4}}(?:-[0-9]{{1,4}})+)",
    re.S,
)
_LEFT = re.compile("[\u4e00-\u9fff0-9A-Za-z·]{1,40}$")
_LONGEST = 12
FICTION = ("云岚市", "青禾市", "映泉市")
"""Cities that do not exist: how the addresses begin that we invent."""


@functools.cache
def _divisions() -> tuple[frozenset[str], frozenset[str]]:
    """Full names of all levels, and the stems of those that are long enough to stand alone (北京, 广东, 内蒙古)."""
    provinces, cities, counties = words("divisions")
    stems = {re.sub("(?:省|市|特别行政区|壮族自治区|回族自治区|维吾尔自治区|自治区)$", "", name) for name in provinces}
    stems |= {name[:-1] for name in cities if name.endswith("市") and len(name) > 2}
    changed = {name[:-1] + end for name in counties if name[-1] in "县市区" and len(name) > 2 for end in "县市区"}
    return provinces | cities | counties | changed, frozenset(stem for stem in stems if len(stem) > 1)


def chain(text: str, begin: int, high: int) -> tuple[int, int]:
    """Divisions that follow each other from `begin`: (how many, where they end)."""
    full, stems = _divisions()
    count, at = 0, begin
    while count < 4:
        for size in range(min(_LONGEST, high - at), 1, -1):
            piece = text[at : at + size]
            if piece in full or (piece in stems and count == 0):
                count, at = count + 1, at + size
                break
        else:
            break
    return count, at


def _beginnings() -> str:
    """What stands behind a cue in front of an address: how divisions begin."""
    full, stems = _divisions()
    first, second = ("".join(sorted({word[at] for word in full | stems})) for at in (0, 1))
    return f"[{first}][{second}]"


class ChineseAddresses:
    name = "addresses_zh"
    version = 1
    pattern = (
        f"(?:{_WAYS})[{_NUM}]{{1,6}}(?:号|弄|巷|栋|幢|座|组|队|社)|"
        f"(?:{_CUES})[ \t]{{0,2}}(?:[:：为是在于])?[ \t]{{0,2}}[\u4e00-\u9fff]"
    )
    gate = (
        f"(?:{_WAYS})[{_NUM}]{{1,6}}(?:号|弄|巷|栋|幢|座|组|队|社)|"
        f"(?:{_CUES})[ \t]{{0,2}}(?:[:：为是在于])?[ \t]{{0,2}}{_beginnings()}"
    )
    opens = "".join(sorted({word[0] for word in f"{_WAYS}|{_CUES}".split("|")}))

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        cue = _CUE.match(spot.text, spot.start, spot.high)
        if cue is not None:
            found = self._behind(spot, cue.end())
            if found is not None:
                return [found], found.end
        anchor = _ANCHOR.match(spot.text, spot.start, spot.high)
        if anchor is not None:
            found = self._around(spot, anchor)
            return ([found], found.end) if found is not None else ([], anchor.end())
        return [], cue.end() if cue is not None else spot.start

    def _behind(self, spot: Spot, begin: int) -> Finding | None:
        body = _BODY.match(spot.text, begin, spot.high)
        if body is None or body[0].startswith(FICTION):
            return None
        count, after = chain(spot.text, begin, spot.high)
        if not count:
            return None
        marked = _LAST_MARK.match(spot.text, after, body.end())
        end = marked.end() if marked else 0
        anchor = _ANCHOR.search(spot.text, after, body.end())
        if anchor is not None:  # what comes behind the house is prose
            end = _tail(spot.text, anchor.end(), spot.high)
        if end <= after or "的" in spot.text[after:end]:
            return None
        return Finding(begin, end, "address", 0.9 if count > 1 else 0.8, self.name, spot.text[begin:end])

    def _around(self, spot: Spot, anchor: re.Match[str]) -> Finding | None:
        left = _LEFT.search(spot.before(40))
        size = len(left[0]) if left else 0
        end = _tail(spot.text, anchor.end(), spot.high)
        for begin in range(spot.start - size, spot.start):
            count, after = chain(spot.text, begin, spot.start + 1)
            if count and after <= spot.start and spot.start - after <= 16:
                if spot.text.startswith(FICTION, max(spot.low, begin - 3)):
                    return None
                score = 0.85 if count > 1 else 0.6
                return Finding(begin, end, "address", score, self.name, spot.text[begin:end])
        return None


def _tail(text: str, end: int, high: int) -> int:
    """Further parts of one house: building, unit, room."""
    while (unit := _TAIL.match(text, end, high)) is not None:
        end = unit.end()
    if text[end - 1] in "元栋楼座幢" and (room := _ROOM.match(text, end, high)) is not None:
        end = room.end()
    return end
