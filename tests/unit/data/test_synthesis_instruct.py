"""Instructions from examples: exactly so many, each unlike the others, and of a closed level where the examples are."""

from __future__ import annotations

import json
from pathlib import Path

from synthesis_kit import Kitchen, fifty

from danlu.data.sample import Conversation, Message, Origin
from danlu.data.synthesis.instruct import Pool, seed_tasks
from teacher_kit import serving


def test_fifty_cases_by_self_instruct(tmp_path: Path) -> None:
    """ "50 cases, JSON": exactly so many, each unlike the others; copies, pictures and excuses are refused."""
    with serving(fifty) as server:
        kitchen = Kitchen(tmp_path, server)
        made = kitchen.make(instructions=50, topic="行政通知的撰写")
        again = kitchen.make(instructions=50, topic="行政通知的撰写")
        shown = [body["messages"][-1]["content"] for body in server.bodies]
    assert len(made) == 50 == len({sample.messages[0].content for sample in made}) and again == made
    assert {"alike", "needs_more", "excuse"} <= set(kitchen.reasons)
    assert all("行政通知的撰写" in text for text in shown)
    later = [text for text in shown if text.count('"instruction"') == 8]
    assert len(later) == len(shown), "eight examples in each request"
    pool = Pool(seed_tasks((), "zh"))
    assert all(pool.nearest(sample.messages[0].content) < 0.7 for sample in made)


def test_a_teacher_that_repeats_itself_is_given_up(tmp_path: Path) -> None:
    with serving(
        lambda body: json.dumps(
            {"items": [{"instruction": "写一句话介绍春天", "output": "春暖花开。"}]}, ensure_ascii=False
        )
    ) as server:
        kitchen = Kitchen(tmp_path, server)
        assert len(kitchen.make(instructions=50)) == 1 and len(server.bodies) <= 20


def test_examples_of_the_user_s_own_keep_their_level(tmp_path: Path) -> None:
    seeds = tuple(
        Conversation((Message("user", f"任务{n}：起草第{n}号函件"), Message("assistant", "好")), Origin("s.jsonl", n), tags={"level": "confidential", "masked": True})
        for n in range(8)
    )  # fmt: skip
    with serving(fifty) as server:
        kitchen = Kitchen(tmp_path, server)
        made = kitchen.make(instructions=7, seeds=seeds)
        assert {sample.tags["level"] for sample in made} == {"confidential"}
        server.bodies.clear()
        outside = Kitchen(tmp_path / "outside", server).make(instructions=7, seeds=seeds, is_external=True)
        assert {sample.tags["level"] for sample in outside} == {"public"}, "danlu's own examples instead"
        assert not any("起草第" in json.dumps(body, ensure_ascii=False) for body in server.bodies)
