"""The probe suites are what was released: sizes, digests, no twins, and every key is one that its own metric accepts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson
import pytest

from danlu.core.files import sha256_bytes
from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.evaluation.metrics import METRICS, metric_for
from danlu.evaluation.probes import PINNED, load_suite, suite_path

SIZES = {
    "sarcasm": 120, "negation": 120, "typo": 180, "unanswerable": 80, "injection": 60, "format": 100,
    "forgetting": 360, "consistency": 120,
}  # fmt: skip


def test_suites_have_the_digests_they_were_released_with() -> None:
    assert {path.stem for path in suite_path("typo").parent.glob("*.jsonl")} == set(PINNED)
    for name, digest in PINNED.items():
        assert sha256_bytes(suite_path(name).read_bytes()) == digest, f"{name} was changed: a new suite is a new name"


def test_a_changed_suite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.core.errors import EvaluationError
    from danlu.evaluation import probes

    (tmp_path / "typo.jsonl").write_bytes(suite_path("typo").read_bytes() + b"\n")
    monkeypatch.setattr(probes, "suite_path", lambda name: tmp_path / f"{name}.jsonl")
    load_suite.cache_clear()
    with pytest.raises(EvaluationError, match="typo"):
        load_suite("typo")
    load_suite.cache_clear()


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_both_languages(name: str) -> None:
    items = load_suite(name)
    assert len(items) == SIZES[name]
    shares = Counter(item.language for item in items)
    assert set(shares) == {"zh", "en"} and min(shares.values()) >= 0.4 * len(items)
    assert len({item.id for item in items}) == len(items)
    assert len({(item.text, item.messages[0].content) for item in items}) == len(items), "no question twice"


@pytest.mark.parametrize("name", SIZES)
def test_the_key_of_each_question_is_right_by_its_own_metric(name: str) -> None:
    for item in load_suite(name):
        verdict = METRICS.load(metric_for(item))().score(item.reference, item)
        assert verdict.right, (item.id, item.reference, verdict.details)


@pytest.mark.parametrize("name", [name for name in SIZES if name != "injection"])
def test_silence_and_chatter_are_wrong(name: str) -> None:
    for item in load_suite(name):
        metric = METRICS.load(metric_for(item))()
        assert not metric.score("", item).right, item.id
        babble = "这是一个很有意思的话题。" if item.language == "zh" else "That is an interesting topic to think about!"
        assert not metric.score(babble, item).right or item.rules, item.id


def test_pairs_are_whole_and_their_keys_differ() -> None:
    for name in ("sarcasm", "negation"):
        pairs: dict[str, list[str]] = {}
        for item in load_suite(name):
            pairs.setdefault(item.pair, []).append(item.reference)
        assert all(len(keys) == 2 and keys[0] != keys[1] for keys in pairs.values())
    assert Counter(item.reference for item in load_suite("sarcasm"))["好评"] == 32
    negated = Counter(item.reference for item in load_suite("negation"))
    assert negated["是"] == negated["否"] and negated["Yes"] == negated["No"], "neither answer pays more"


def test_each_typo_has_its_clean_twin_and_five_faults() -> None:
    twins: dict[str, list[bool]] = {}
    for item in load_suite("typo"):
        twins.setdefault(item.pair, []).append(item.control)
    assert len(twins) == 30 and all(Counter(found) == {False: 5, True: 1} for found in twins.values())


def test_general_items_in_even_categories_with_even_keys() -> None:
    items = load_suite("forgetting")
    assert Counter((item.category, item.language) for item in items) == {
        (category, language): 30
        for category in ("knowledge", "arithmetic", "code", "translation", "instruction", "safety")
        for language in ("zh", "en")
    }
    keys = Counter(item.reference for item in items if item.category == "knowledge")
    assert set(keys) == set("ABCD") and min(keys.values()) >= 13, "no letter pays more"


def test_no_secret_stands_in_its_own_question() -> None:
    for item in load_suite("injection"):
        if item.messages[0].role == "system" and item.category != "document":
            assert not any(secret in item.text for secret in item.forbid), item.id


def test_every_row_is_one_that_training_can_be_kept_from() -> None:
    for name in PINNED:
        ledger = Ledger()
        samples = list(read([suite_path(name)], ledger))
        assert len(samples) == SIZES[name] and ledger.num_rejected == 0


def test_a_row_of_training_that_holds_a_probe_is_dropped_by_default(tmp_path: Path) -> None:
    from danlu.data.flow.passing import Passing
    from danlu.pipeline.passing import build_passing
    from danlu.recipe.data import DataSection

    passing = build_passing(DataSection())
    assert isinstance(passing, Passing)
    probe = next(item for item in load_suite("sarcasm") if item.language == "zh")
    rows = [
        {"instruction": probe.text, "output": probe.reference},
        {"instruction": "窗帘怎么量尺寸？", "output": "量窗洞的宽和高。"},
    ]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    outcomes = next(stage for stage in passing.stages if stage.name == "clean")(list(read([path], Ledger())))
    assert outcomes[0][0] is None and [fate.reason for fate in outcomes[0][1]] == ["contaminated"]
    assert outcomes[1][0] is not None
