"""Choice: which of the lettered options the answer takes. Several where the reference is several ("AC").

Read in this order: a letter after a word of decision («答案是 B», "the answer is (B)", a LaTeX box), the last one not
taken back; the one called right; an answer that is letters alone or begins with one ("B.", "(B) Paris"); a letter on
its own at the end; the one option whose text stands in the answer (`rules: {"options": ["Paris", "Rome"]}`). "A good
answer" names no A, "A or B" neither. Nothing read is a parse failure: wrong, and counted apart. Letters are A to H (I
is a word).
"""

from __future__ import annotations

import re
import unicodedata

from danlu.evaluation.fold import final_answer, find, fold
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict

_BETWEEN = r"\s*(?:[,、和及与&/]|and)?\s*"
_CAPITALS = rf"[A-H]+(?:{_BETWEEN}[A-H]+)*(?![A-Za-z])"
# A small letter only where nothing follows it: "answer: b", not "the answer is a good one".
_LETTERS = rf"(?:{_CAPITALS}|[a-h](?=\s*(?:$|[)\].,;。,\n])))"
_WRAPPING = r"[\s:*_`\"'“「【\[(\\${{]*(?:(?:boxed|text|textbf|mathrm|option|Option|选项)[\s{(]*)*"
_DECIDED = re.compile(
    r"(?:答案|正确的?(?:选项|答案)?(?=\s*(?:是|为|:))|选项|应选|故选|所以选|因此选|我选|选择|选|而是|认为(?:应该?)?|应该?(?=是)|只有"
    r"|(?i:\b(?:choose|pick|select|go with|so|therefore|thus)\b|\b(?:answer|option|choice)s?\b|\bbut\b))"
    rf"\s*(?:应该|应当|应|就|为|是|选|(?i:\bis\b|\bare\b|\bwould be\b|\bshould be\b)|=|\s)*{_WRAPPING}({_LETTERS})"
)
_BOXED = re.compile(rf"\\boxed\{{\s*(?:\\(?:text|textbf|mathrm)\s*\{{)?\s*\(?({_CAPITALS})\)?\s*\}}")
_LEADING = re.compile(
    rf"^[\s*_`\"'(\[{{【「]*({_CAPITALS})\s*"
    r"(?:[)\]}】」*_`.:,。;、]|$|\n|(?=[\u4e00-\u9fff])|(?<=\s)(?:is|are)\b)"
)
_LAST = re.compile(rf"(?:^|[\s(\[{{【「“\"*_`:,。])({_CAPITALS})[)\]}}】」”\"*_`.。!\s]*$")
_ALONE = re.compile(r"^[\s(\[*_`\"']*([a-h])[\s)\].,。*_`\"']*$")
_AFFIRMED = re.compile(
    r"(?<![A-Za-z])([A-H])\s*(?:选项|项)?\s*(?:is|是)?\s*(?:the\s+)?(?:correct|right|正确|对)(?![A-Za-z]|不对)"
)
_REJECTED = re.compile(
    r"^\W*(?:选项|项)?\s*(?:is|are|都|均|全|是|皆|明显|显然)*\s*"
    r"(?:not|n't|incorrect|wrong|false|错|不对|不正确|不是|不符|不选|排除)"
)
_OR = re.compile(r"(?:\bor|或者?|还是)\s*$", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    r"(?:不是|并非|不选|不应选|排除|错误|不对|(?i:\bnot|\bisn't|\bincorrect|\bwrong))[^。.;,\n]{0,12}$"
)


class Choice:
    name = "choice"

    def score(self, answer_text: str, item: Item) -> Verdict:
        allowed = _letters("".join(item.labels)) or "ABCDEFGH"
        read = read_choice(final_answer(answer_text), tuple(map(str, item.rules.get("options", ()))))
        if not read or not set(read) <= set(allowed):
            return Verdict(0.0, False, {"parse_failure": True})
        references = [_letters(text) for text in (item.reference, *item.accept)]
        right = read in references
        part = 0.0
        if len(references[0]) > 1 and set(read) < set(references[0]):  # some of them and none wrong
            part = len(read) / len(references[0])
        return Verdict(1.0 if right else part, right, {"label": read})


def read_choice(answer: str, options: tuple[str, ...] = ()) -> str:
    """The letters that an answer takes, sorted, or ""."""
    text = unicodedata.normalize("NFKC", answer).strip()
    if boxed := _BOXED.findall(text):
        return _letters(boxed[-1])
    decided = [match for match in _DECIDED.finditer(text) if not _TAKEN_BACK.search(text[: match.start(1)])]
    if decided:
        return _letters(decided[-1][1])
    for pattern in (_ALONE, _AFFIRMED, _LEADING, _LAST):
        match = pattern.search(text)
        if match and not _REJECTED.match(text[match.end(1) :]) and not _OR.search(text[: match.start(1)]):
            return _letters(match[1])
    named = [chr(ord("A") + place) for place, option in enumerate(options) if find(fold(option), fold(text)) >= 0]
    return named[0] if len(named) == 1 else ""


def _letters(text: str) -> str:
    return "".join(sorted(set(re.findall("[A-H]", unicodedata.normalize("NFKC", text).upper().replace("AND", " ")))))
