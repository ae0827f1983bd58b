"""Texts out and back in, and ids that depend on content alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from danlu.data.identity import sample_id
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample
from danlu.data.texts import texts_of, with_tags, with_texts

HERE = Origin("a.jsonl", 3)
WORDS = st.text(st.characters(), max_size=12)
ARGUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(WORDS, st.integers(), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)
CALLS = st.builds(
    lambda name, args: {"id": "c1", "type": "function", "function": {"name": name, "arguments": args}},
    WORDS,
    st.dictionaries(WORDS, ARGUMENTS, max_size=3),
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=WORDS,
    reasoning=st.none() | WORDS,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
)
TURNS = st.lists(MESSAGES, min_size=1, max_size=4).map(tuple)
SAMPLES: st.SearchStrategy[Sample] = st.one_of(
    st.builds(Conversation, messages=TURNS, origin=st.just(HERE)),
    st.builds(Preference, prompt=TURNS, chosen=TURNS, rejected=TURNS, origin=st.just(HERE)),
    st.builds(Feedback, messages=TURNS, desirable=st.booleans(), origin=st.just(HERE)),
    st.builds(Label, text=WORDS, label=WORDS, origin=st.just(HERE)),
    st.builds(Document, text=WORDS, title=WORDS, origin=st.just(HERE)),
)


@given(SAMPLES)
def test_texts_put_back_unchanged_are_the_very_same_sample(sample: Sample) -> None:
    assert with_texts(sample, texts_of(sample)) is sample


@given(SAMPLES)
def test_every_text_can_be_replaced_and_is_found_in_its_place(sample: Sample) -> None:
    fresh = [f"text {at}" for at in range(len(texts_of(sample)))]
    changed = with_texts(sample, fresh)
    assert texts_of(changed) == fresh
    assert with_texts(changed, texts_of(sample)) == sample


@given(SAMPLES)
def test_an_id_speaks_of_content_not_of_place(sample: Sample) -> None:
    moved = replace(sample, origin=Origin("b.csv", 99), group="g", tags={"level": "internal"})
    assert sample_id(moved) == sample_id(sample)
    changed = with_texts(sample, [f"{text}!" for text in texts_of(sample)])
    assert sample_id(changed) != sample_id(sample)


def test_ids_stay_what_they_are() -> None:
    # provenance written by one version is looked up by the next
    asked = Conversation((Message("user", "1+1?"), Message("assistant", "2")), HERE)
    assert sample_id(asked) == "s_e74c77db3989a3ea821ea53f9ab9e8e8"
    assert sample_id(Document("甲方", HERE, title="合同")) == "s_6590f41b0b22c13d989ddffda06ae908"


def test_half_surrogates_and_huge_numbers_have_ids_of_their_own() -> None:
    broken, literal = Document("\ud800", HERE), Document("\\ud800", HERE)
    assert sample_id(broken) != sample_id(literal)
    call = {"function": {"name": "f", "arguments": {"n": 2**80}}}
    assert sample_id(Conversation((Message("assistant", "", tool_calls=(call,)),), HERE)).startswith("s_")


def test_a_mask_flag_is_content() -> None:
    turns = (Message("user", "a"), Message("assistant", "b"))
    masked = (turns[0], replace(turns[1], train=False))
    assert sample_id(Conversation(turns, HERE)) != sample_id(Conversation(masked, HERE))


@given(SAMPLES)
def test_tags_are_all_that_changes(sample: Sample) -> None:
    tagged = with_tags(sample, {"level": "internal"})
    assert tagged == replace(sample, tags={"level": "internal"}) and type(tagged) is type(sample)
