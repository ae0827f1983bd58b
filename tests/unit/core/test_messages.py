"""Both languages say the same things, and everything that is said exists."""

import ast
import json
import re
import string
from pathlib import Path

import pytest

from danlu.core.messages import LANGUAGES, listed, say, set_language, spoken_in
from danlu.core.shelf import unknown_name

ROOM_FOLDER = Path(__file__).parents[3] / "src" / "danlu" / "core" / "messages"
SRC = ROOM_FOLDER.parents[1]
ROOMS = sorted(path.stem for path in (ROOM_FOLDER / "en").glob("*.json"))


def placeholders(text: str) -> set[str]:
    return {re.split(r"[.!\[:]", name)[0] for _, name, _, _ in string.Formatter().parse(text) if name}


def parts(entry: object) -> dict[str, str]:
    return {"text": entry} if isinstance(entry, str) else dict(entry)  # type: ignore[call-overload]


def test_an_error_does_not_ask_for_its_place_twice() -> None:
    """`where` stands before its text and is none of its values."""
    for room in ROOMS:
        for key, entry in json.loads((ROOM_FOLDER / "en" / f"{room}.json").read_text("utf-8")).items():
            if isinstance(entry, dict):
                assert "where" not in placeholders(" ".join(entry.values())), f"{room}.{key}"


def test_both_languages_have_the_same_rooms() -> None:
    assert ROOMS == sorted(path.stem for path in (ROOM_FOLDER / "zh").glob("*.json"))


@pytest.mark.parametrize("room", ROOMS)
def test_keys_and_placeholders_match(room: str) -> None:
    en, zh = (json.loads((ROOM_FOLDER / lang / f"{room}.json").read_text("utf-8")) for lang in LANGUAGES)
    assert en.keys() == zh.keys()
    for key in en:
        assert parts(en[key]).keys() == parts(zh[key]).keys(), key
        for part in parts(en[key]):
            assert placeholders(parts(en[key])[part]) == placeholders(parts(zh[key])[part]), f"{room}.{key}.{part}"


@pytest.mark.parametrize("room", ROOMS)
def test_chinese_is_chinese(room: str) -> None:
    zh = json.loads((ROOM_FOLDER / "zh" / f"{room}.json").read_text("utf-8"))
    text = "".join("".join(parts(entry).values()) for entry in zh.values())
    assert len(re.findall(r"[\u4e00-\u9fff]", text)) > 0.15 * len(text)


@pytest.mark.parametrize("room", ROOMS)
def test_chinese_is_punctuated_as_chinese(room: str) -> None:
    zh = json.loads((ROOM_FOLDER / "zh" / f"{room}.json").read_text("utf-8"))
    half = re.compile(r"[\u4e00-\u9fff][,;:?!()]|[,;:?!()][\u4e00-\u9fff]")
    found = {f"{room}.{key}": text for key, entry in zh.items() for text in parts(entry).values() if half.search(text)}
    assert not found, found


def test_every_key_in_the_code_exists() -> None:
    """A literal first argument of say() or of an error class must be in the catalogue."""
    known = {f"{room}.{key}" for room in ROOMS for key in json.loads((ROOM_FOLDER / "en" / f"{room}.json").read_text())}
    missing = []
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            key = node.args[0].value
            if (
                (name == "say" or name.endswith("Error"))
                and isinstance(key, str)
                and re.fullmatch(r"[a-z]+\.[\w.]+", key)
            ):
                if key not in known:
                    missing.append(f"{path.relative_to(SRC)}:{node.lineno} {key}")
    assert not missing, missing


def test_language_follows_the_choice() -> None:
    set_language("zh")
    assert "覆盖项" in say("recipe.bad_override", given="x")
    set_language("en")
    assert "override" in say("recipe.bad_override", given="x")


def test_lists_stand_as_the_reader_s_language_has_them() -> None:
    """Chinese sentences held `, ` between the names of a list."""
    for language, told in (("en", "a, 1"), ("zh", "a、1")):
        assert listed(["a", 1], language) == told  # type: ignore[arg-type]
        with spoken_in(language):  # type: ignore[arg-type]
            assert listed(("a", 1)) == told
            assert told.replace("1", "b") in unknown_name("x", ["a", "b"], of="formats", where="--to").fix
