"""Ember's own text: same seed same rows, values copied exactly, wordings differ, nothing of the demo company."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from recipes.ember import values, worlds
from recipes.ember.corpus import held_out, read_shard, spread, write_lines
from recipes.ember.distinctive import Distinctive
from recipes.ember.lexicon import CLASSES, sections, settings
from recipes.ember.synthetic import chosen, plain_text, rows
from recipes.ember.wording import ask

LANGUAGES = ("zh", "en")


def first(seed: int, count: int) -> list[worlds.Row]:
    return list(itertools.islice(rows(seed), count))


def test_same_seed_same_rows_other_seed_other_rows() -> None:
    assert first(3, 40) == first(3, 40)
    assert first(3, 40) != first(4, 40)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_item_has_a_value_and_frames_that_fit(lang: str) -> None:
    rng = random.Random(1)
    frames = sections(f"{lang}_frames.txt")
    for setting in settings(lang):
        assert setting.papers, setting.name
        for item in setting.items:
            assert len(item.names) >= 3, item
            assert item.questions, item
            assert item.frames in CLASSES or item.frames == "measure"
            assert frames[item.frames]
            assert values.draw(item.kind, rng, lang).strip()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_one_fact_is_asked_in_many_wordings(lang: str) -> None:
    rng = random.Random(2)
    fact = worlds.world(rng, lang).facts[0]
    assert len({ask(fact, rng, lang) for _ in range(60)}) > 45


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_reading_chat_answers_with_values_of_its_paper(lang: str) -> None:
    rng = random.Random(5)
    found, answers = 0, 0
    for _ in range(60):
        w = worlds.world(rng, lang)
        for message in worlds.reading_chat(w, rng)["messages"]:
            if message["role"] == "assistant":
                answers += 1
                found += any(fact.value in message["content"] for fact in w.facts)
    assert found / answers > 0.75  # the rest is "not stated" and bare yes or no


def test_no_placeholder_is_left_in_any_row() -> None:
    for row in first(6, 600):
        assert not re.search(r"\{[ivdnwqxs]\}", plain_text(row)), plain_text(row)


def test_chats_alternate_and_end_with_an_answer() -> None:
    for row in first(7, 600):
        if "messages" in row:
            roles = [message["role"] for message in row["messages"] if message["role"] != "system"]
            assert roles[0] == "user"
            assert roles[-1] == "assistant"
            assert all(a != b for a, b in itertools.pairwise(roles))


def test_rows_of_the_demo_company_are_dropped_and_counted(tmp_path: Path) -> None:
    listed = tmp_path / "distinctive.txt"
    listed.write_text("# names\n丹江样品厂\nmeal\t80 yuan\nXQ\n", encoding="utf-8")
    distinctive = Distinctive.load(listed)
    assert distinctive.found("位于丹江样品厂旁")
    assert distinctive.found("a meal is 80 yuan here")
    assert distinctive.found("aXQb")
    assert not distinctive.found("a meal is 90 yuan here")
    assert not distinctive.found("丹江的样品厂")
    assert not Distinctive.load(tmp_path / "absent.txt").found("anything")


def test_the_real_list_finds_nothing_in_what_is_written() -> None:
    distinctive, dropped = Distinctive.load(), Counter[str]()
    written = itertools.islice(chosen(1.0, 11, dropped, organisations=2), 800)
    assert not any(distinctive.found(plain_text(row)) for row in written)


def test_shards_are_read_capped_evenly_and_written_back(tmp_path: Path) -> None:
    texts = [f"{number} " + "字" * 50 for number in range(200)]
    write_lines(tmp_path / "zh.jsonl.zst", [{"text": text} for text in texts], level=3)
    assert list(read_shard(tmp_path, "zh")) == texts
    kept = list(spread(texts, 2_000, sum(map(len, texts))))
    assert 1_800 < sum(map(len, kept)) < 2_200
    assert int(kept[-1].split()[0]) > 150  # from the tail as well as from the head
    raw = (tmp_path / "zh.jsonl.zst").read_bytes()
    assert zstandard.get_frame_parameters(raw).window_size <= 2**27


def test_what_is_held_out_does_not_depend_on_order() -> None:
    texts = [f"text {number}" for number in range(4000)]
    assert 0.002 < sum(map(held_out, texts)) / len(texts) < 0.01
    assert [held_out(text) for text in texts] == [held_out(text) for text in reversed(texts)][::-1]
