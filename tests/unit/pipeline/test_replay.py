"""Replay: from a file as ever, or the base's own answers to general prompts, made once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import DataError
from danlu.core.progress import Silent
from danlu.data.synthesis.teacher import Ask, Reply
from danlu.pipeline import replay
from danlu.pipeline.demo import demo_recipe
from danlu.pipeline.replay import answered, file_of, goes_in_circles, is_sound, make_replay, read_prompts, serves
from danlu.recipe import Recipe
from danlu.recipe.synthesis import ReplaySection
from progress_kit import Notes


def made(tmp_path: Path, num_tokens: int = 300, **section: Any) -> tuple[list[Any], list[str]]:
    notes = Notes()
    recipe = Recipe.from_tree({"data": {"replay": section}})
    return make_replay(recipe, num_tokens, tmp_path / "cache", notes), notes.said


def test_our_prompts_are_two_hundred_in_two_languages() -> None:
    prompts = read_prompts(None)
    assert len(prompts) >= 200 and len(set(prompts)) == len(prompts)
    num_chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in prompt) for prompt in prompts)
    assert 0.4 < num_chinese / len(prompts) < 0.6


def test_the_demo_s_replay_is_its_file_as_ever(tmp_path: Path) -> None:
    recipe = demo_recipe(full=False)
    assert str(file_of(recipe.data.replay)).endswith("replay.jsonl")
    assert make_replay(recipe, 1000, tmp_path, Silent()) == []
    assert not list(tmp_path.iterdir()), "nobody was asked"
    assert file_of(ReplaySection(source="base", path="general.jsonl")) is None
    assert file_of(ReplaySection(path="general.jsonl", ratio=0)) is None


def test_a_small_base_is_left_alone_unless_asked_by_name(tmp_path: Path) -> None:
    """ember's own talk is noise: by default there is no replay then, and it is said."""
    samples, notes = made(tmp_path)
    assert samples == [] and len(notes) == 1 and "ember" in notes[0] and "16" in notes[0]
    assert made(tmp_path, source="none") == ([], [])
    with pytest.raises(DataError) as caught:
        made(tmp_path, source="file")
    assert caught.value.key == "synthesis.no_replay_file"


def test_the_base_answers_once_and_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, notes = made(tmp_path, source="base")
    assert len(first) > 5 and {sample.tags["made_by"] for sample in first} == {"replay"} and "ember" not in notes[0]
    assert all(len(sample.messages) == 2 and sample.messages[1].content for sample in first)

    def nobody(*_: Any) -> None:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr("danlu.pipeline.loading.load_engine", nobody)
    again, _ = made(tmp_path, source="base")
    assert again == first


def test_a_random_base_has_nothing_to_say(tmp_path: Path) -> None:
    recipe = Recipe.from_tree({"model": {"init": "random"}, "data": {"replay": {"source": "base"}}})
    with pytest.raises(DataError) as caught:
        make_replay(recipe, 100, tmp_path, Silent())
    assert caught.value.key == "synthesis.replay_needs_base"


class Talker:
    """Says what a script says."""

    name, is_external, levels, identity = "talker", False, frozenset[str](), "t"

    def __init__(self, say: Any) -> None:
        self.say, self.num_asked = say, 0

    def answer(self, asks: list[Ask], *, watch: Any = None) -> list[Reply]:
        self.num_asked += len(asks)
        return [self.say(ask.messages[0].content, ask.seed) for ask in asks]

    def cost(self) -> dict[str, Any]:
        return {}


def test_only_as_much_as_is_needed_and_never_the_same_twice() -> None:
    prompts = [f"问题{n}？" for n in range(100)]
    talker = Talker(lambda prompt, seed: Reply(f"{prompt[:-1]}的回答是第{seed}种说法。", "stop"))
    some = answered(prompts, 300, talker, len, Silent())
    assert sum(len(m.content) for s in some for m in s.messages) >= 300 and talker.num_asked <= replay.PER_TURN
    all_of_them = answered(prompts, 10**9, talker, len, Silent())
    assert len(all_of_them) == 400 and [sample.origin.line for sample in all_of_them] == list(range(1, 401))
    stubborn = Talker(lambda prompt, seed: Reply("同一句话。", "stop"))
    assert len(answered(prompts, 10**9, stubborn, len, Silent())) == 100


def test_loops_cut_answers_and_other_languages_are_not_replayed() -> None:
    assert goes_in_circles("好的好的好的好的好的好的好的好的好的好的好的好的好的好的好的好的")
    assert goes_in_circles("- a bird\n" * 5) and not goes_in_circles("一个句子。另一个句子。")
    assert not is_sound("你好", "") and not is_sound("你好", "Hello there, how are you today?")
    assert is_sound("把下面的话翻译成英文：知识就是力量。", "Knowledge is power.")
    cut = Talker(lambda prompt, seed: Reply("一个没有说完的", "length"))
    assert answered(["你好"], 100, cut, len, Silent()) == []


def test_prompts_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(
        '第一个问题\n{"prompt": "second"}\n\n{"question": "third"}\n{"other": 1}\n第一个问题\n', encoding="utf-8"
    )
    assert read_prompts(path) == ["第一个问题", "second", "third"]
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError):
        read_prompts(path)
    with pytest.raises(DataError):
        read_prompts(tmp_path / "missing.txt")


def test_a_base_is_not_asked_for_a_stage_that_reads_no_conversations() -> None:
    """Ten million tokens of documents to read would have had the base talk for an hour, for nothing."""
    assert serves(ReplaySection(), {"conversation", "label"}) and not serves(ReplaySection(), {"document"})
    assert serves(ReplaySection(path="general.jsonl"), {"document"}) and serves(
        ReplaySection(source="file", path="general.jsonl"), {"preference"}
    )
    assert not serves(ReplaySection(source="base", path="general.jsonl"), {"preference"})
    assert not serves(ReplaySection(source="none", path="general.jsonl"), {"conversation"})
