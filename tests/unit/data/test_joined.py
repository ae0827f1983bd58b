"""Texts of many rows on pages: every place is in the text, and the row, that it was taken from."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from danlu.data.joined import BREAK, PAGE_ROWS, Texts
from danlu.data.sample import Conversation, Document, Message, Origin, Sample
from danlu.data.stage import Fate, Outcome, touched
from danlu.data.texts import texts_of

TEXTS = st.lists(st.lists(st.text(st.characters(codec="utf-16")), min_size=1, max_size=3), max_size=8)
ANY_TEXTS = st.lists(st.lists(st.text(st.sampled_from("a中\n😀\ud83d\ude00é")), min_size=1, max_size=3), max_size=8)


def chat(turns: Sequence[str], line: int = 1) -> Conversation:
    return Conversation(tuple(Message("user", turn) for turn in turns), Origin("c.jsonl", line))


@given(TEXTS | ANY_TEXTS)
def test_texts_lie_end_to_end_and_know_their_rows(rows: list[list[str]]) -> None:
    texts = Texts(map(chat, rows))
    owner = [row for row, own in enumerate(rows) for _ in own]
    for page in texts.pages():
        units, data = page.units.tobytes(), page.data
        assert units == "".join(one + BREAK for row in rows for one in row).encode("utf-16-le", "surrogatepass")
        unit_end = data_end = 0
        for at, text in enumerate(page.flat):
            in_units, in_data = text.encode("utf-16-le", "surrogatepass"), text.encode("utf-8", "surrogatepass")
            assert units[2 * unit_end :].startswith(in_units)
            assert data[data_end:].startswith(in_data)
            unit_end, data_end = unit_end + len(in_units) // 2, data_end + len(in_data)
            assert (page.unit_ends[at], page.data_ends[at]) == (unit_end, data_end)
            unit_end, data_end = unit_end + 1, data_end + 1
            assert page.rows_at(page.unit_ends[at : at + 1], page.unit_ends) == [owner[at]]


def test_rows_are_what_stages_made_of_them() -> None:
    one, two = PAGE_ROWS, 2 * PAGE_ROWS
    rows = [chat([f"question {at}", f"answer {at}"], at) for at in range(two + 3)]
    texts = Texts(rows)
    assert [page.rows for page in texts.pages()] == [range(one), range(one, two), range(two, two + 3)]
    changed = chat(["now", "it", "says", "more"])
    texts.put(one + 7, changed)
    texts.put(3, None)
    texts.put(4, rows[4])
    assert texts.stale == {3, one + 7}
    assert texts.of(one + 7) == ["now", "it", "says", "more"]
    assert texts.of(3) == []
    assert [texts.of(row) for row in (4, two + 2)] == [texts_of(rows[4]), texts_of(rows[two + 2])]
    assert len(texts.alive()) == len(rows) - 1
    for row in range(len(rows) // 2):
        texts.put(row, None)
    assert texts.pages()[0].flat == []
    assert not texts.stale


class Shout:
    """Knows of no pieces."""

    name = "shout"

    def key(self) -> dict[str, int]:
        return {"version": 1}

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Outcome:
        text = "".join(texts_of(sample))
        if "drop" in text:
            return None, (Fate("drop", "echo"),)
        if "loud" in text:
            return Document(text.upper(), sample.origin), (Fate("change", "normal_form"),)
        return sample, ((Fate("flag", "echo"),) if "flag" in text else ())


def test_a_stage_that_knows_of_no_pieces_tells_only_what_it_did() -> None:
    texts = Texts([chat([word]) for word in ("", "loud", "gone", "drop", "flag", "quiet")])
    texts.put(2, None)
    told = touched(Shout(), texts)
    assert list(told) == [1, 3, 4]
    assert told[3] == (None, (Fate("drop", "echo"),))
    assert told[4] == (texts.samples[4], (Fate("flag", "echo"),))
