"""Which encoding is this? Short and awkward texts that were once read as something else."""

from __future__ import annotations

import pytest

from danlu.data.encoding import Decoder, detect


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        ("你好", "gb18030", "gb18030"),
        ("报销", "gb18030", "gb18030"),
        ('{"q": "镕基问", "a": "答"}', "gb18030", "gb18030"),
        ('{"instruction": "a long English row", "output": "with one 词 in it"}', "gb18030", "gb18030"),
        ("問題,答案\n幾天？,三天", "big5", "big5"),
        ("質問,回答\nなんですか？,はい", "cp932", "shift_jis"),
        ("a café", "cp1252", "windows-1252"),
        ("Größe, Übung “x” naïve", "cp1252", "windows-1252"),
    ],
)
def test_a_legacy_text_is_known(text: str, codec: str, name: str) -> None:
    decoder, skip = detect(text.encode(codec))
    assert (decoder.main, skip) == (name, 0)
    assert "\n".join(decoder.decode(line)[0] or "?" for line in text.encode(codec).split(b"\n")) == text
    assert decoder.name == name


@pytest.mark.parametrize("word", ["联通", "胃 ", "小", "未"])
def test_a_short_line_of_a_gb18030_file_is_not_utf8(word: str) -> None:
    decoder, _ = detect("这是一个普通的中文文件\n第二行".encode("gb18030"))
    assert decoder.decode(word.encode("gb18030")) == (word, None)


def test_a_damaged_line_is_refused_and_not_read_in_a_third_encoding() -> None:
    decoder, _ = detect("这是一个普通的中文文件\n第二行".encode("gb18030"))
    assert decoder.decode("里外气郁壅".encode("gb18030") + b"\xb52" + "不通".encode("gb18030")) == (None, None)


def test_valid_utf8_stays_utf8_in_a_file_with_accents_of_windows() -> None:
    decoder, _ = detect("naïve ✓\n".encode() + "café\n".encode("cp1252"))
    assert decoder.decode("naïve ✓".encode()) == ("naïve ✓", None)
    assert decoder.decode("café au lait".encode("cp1252")) == ("café au lait", "windows-1252")
    assert decoder.name == "mixed"


def test_a_head_that_ends_inside_a_character_is_still_utf8() -> None:
    assert detect("汉字".encode()[:-1], whole=False)[0] == Decoder()
