"""Feedback: from whoever got the answer alone, and into rows that the furnace reads."""

import asyncio
import json
from collections import Counter

import pytest

from danlu.data.formats import FORMATS
from danlu.data.sample import Origin
from danlu.openai.refused import RefusedError
from danlu.serving.feedback import FeedbackDesk, Kept, Opinion, read_opinions, rows, summary
from danlu.serving.keys import Key
from danlu.serving.tally import Tally

ANN = Key("ann", "Ann", ("*",), keeps_bodies=True)
BOB = Key("bob", "Bob", ("*",), keeps_bodies=True)
ID = "chatcmpl-" + "0a1b2c3d" * 3


def desk(folder, *, owner=lambda id: None, keeps_words=True) -> FeedbackDesk:
    made = FeedbackDesk(
        folder, "w0", owner=owner, mask=lambda text: text.replace("13800138000", "<mobile>"), keeps_words=keeps_words
    )
    made.ended(Tally(ID, "/v1/chat/completions", "chat", "ann", "law", "law@1", status=200, outcome="done"))
    return made


def give(desk: FeedbackDesk, key: Key, **body) -> dict:
    return json.loads(asyncio.run(desk.door(key, json.dumps(body).encode())))


def test_incident_7_only_who_got_the_answer_may_judge_it(tmp_path):
    """CVE-2026-45349: with an id in hand, another user went on with somebody's chat. The refusal tells a stranger
    nothing: the answer of another and the answer of nobody look the same."""
    one = desk(tmp_path)
    errors = []
    for id in (ID, "chatcmpl-" + "ff" * 12, "../../etc/passwd", "chatcmpl-" + "x" * 100):
        with pytest.raises(RefusedError) as caught:
            give(one, BOB, id=id, rating="up")
        errors.append((caught.value.status, caught.value.to_json()))
    assert errors[0][0] == 404 and all(error == errors[0] for error in errors)
    assert read_opinions(tmp_path) == []
    assert give(one, ANN, id=ID, rating="up")["stored"] == ["rating"]
    assert [opinion.key for opinion in read_opinions(tmp_path)] == ["ann"]


def test_an_answer_of_another_worker_is_found_once_the_store_knows(tmp_path):
    asked = []

    def owner(id):
        asked.append(id)
        return ("ann", "law", "law@1") if len(asked) > 1 else None

    other = "chatcmpl-" + "11" * 12
    assert give(desk(tmp_path, owner=owner), ANN, id=other, rating="down")["rating"] == "down"
    assert asked == [other, other]


def test_words_are_kept_only_with_their_question_and_masked(tmp_path):
    told = give(desk(tmp_path / "a"), ANN, id=ID, rating="down", corrected="打 13800138000", comment="错")
    assert told["stored"] == ["rating", "corrected", "comment"] and told["trains"]
    assert read_opinions(tmp_path / "a")[0].corrected == "打 <mobile>"
    for folder, key, keeps in (("b", Key("ann", "Ann", ("*",)), True), ("c", ANN, False)):
        told = give(desk(tmp_path / folder, keeps_words=keeps), key, id=ID, rating="down", corrected="secret words")
        assert told["stored"] == ["rating"] and not told["trains"] and "not kept" in told["note"]
        assert b"secret" not in (tmp_path / folder / "w0.jsonl").read_bytes()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"id": 1, "rating": "up"}', b'{"rating": "up"}', b"\xff"])
def test_what_is_no_feedback_is_refused(tmp_path, body):
    with pytest.raises(RefusedError) as caught:
        asyncio.run(desk(tmp_path).door(ANN, body))
    assert caught.value.status in (400, 404)


@pytest.mark.parametrize(
    "more",
    [
        {"rating": "great"},
        {"rating": None},
        {"corrected": 1},
        {"comment": "x" * 2001},
        {"corrected": "x" * 70_000},
        {"stars": 5},
    ],
)
def test_fields_are_a_list_that_ends(tmp_path, more):
    with pytest.raises(RefusedError) as caught:
        give(desk(tmp_path), ANN, **({"id": ID, "rating": "up"} | more))
    assert caught.value.status == 400


def test_the_last_word_counts_and_nobody_fills_the_disk(tmp_path):
    one = desk(tmp_path)
    for n in range(16):
        give(one, ANN, id=ID, rating="up" if n % 2 else "down")
    assert [opinion.rating for opinion in read_opinions(tmp_path)] == ["up"]
    with pytest.raises(RefusedError) as caught:
        give(one, ANN, id=ID, rating="up")
    assert caught.value.status == 429


def test_a_torn_line_is_no_opinion(tmp_path):
    give(desk(tmp_path), ANN, id=ID, rating="up")
    with (tmp_path / "w0.jsonl").open("ab") as file:
        file.write(b'{"id": "chatcmpl-half')
    assert len(read_opinions(tmp_path)) == 1


def test_rows_are_what_the_furnace_reads():
    question = ({"role": "system", "content": "s"}, {"role": "user", "content": "迟到几次扣薪？"})
    bodies = {name: Kept(question, f"answer {name}") for name in ("good", "bad", "fixed", "same")}
    opinions = [
        Opinion("good", 1, "ann", "law", "law@1", "up"),
        Opinion("bad", 2, "ann", "law", "law@1", "down"),
        Opinion("fixed", 3, "ann", "law", "law@2", "down", corrected="三次。"),
        Opinion("same", 4, "ann", "law", "law@2", "up", corrected="answer same"),
        Opinion("gone", 5, "ann", "law", "law@2", "down", corrected="nobody knows to what"),
    ]
    fates: Counter[str] = Counter()
    made = list(rows(opinions, bodies.get, fates))
    assert fates == {"up": 2, "down": 1, "corrected": 1, "not_kept": 1}
    assert Counter(row.file for row in made) == {"samples": 3, "judged": 3, "pairs": 1}
    kinds = {"pairs": "preference", "samples": "messages", "judged": "kto"}
    for row in made:
        best = max(FORMATS.places, key=lambda name: FORMATS.load(name)().matches(row.value))
        assert best == kinds[row.file]
        sample = FORMATS.load(best)().parse(row.value, Origin("f", 1), [])
        if sample.kind == "preference":
            assert (sample.chosen[0].content, sample.rejected[0].content) == ("三次。", "answer fixed")
            assert [turn.role for turn in sample.prompt] == ["system", "user"]
    assert summary(opinions)["law@2"] == {"up": 1, "down": 2, "corrected": 3}
