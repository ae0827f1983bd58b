"""Answers held to JSON: whatever a random model would rather say, what comes out parses and fits its schema, unless it
was cut by length and says so; what cannot be kept is refused before anything is computed; whoever writes beside a held
row notices nothing."""

from __future__ import annotations

import json
import queue
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.core.errors import EngineError
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.tokenizer import Tokenizer
from danlu.engines import live as living
from danlu.engines.asking import Reader
from danlu.engines.engine import Sampling
from danlu.engines.grammars import ANY_OBJECT, MOST_BYTES, Grammars, Hold
from danlu.engines.live import Live, Update
from danlu.engines.sampling_extras import PLAIN, SamplingExtras
from danlu.model.build import load_model
from danlu.openai.refused import RefusedError
from tiny_chat import QUESTIONS
from waiting_kit import PATIENCE_S

pytest.importorskip("llguidance", reason='no grammars: pip install "danlu[serve]"')
jsonschema = pytest.importorskip("jsonschema")

CARD = {
    "type": "object",
    "properties": {
        "姓名": {"type": "string", "maxLength": 6},
        "级别": {"enum": ["甲", "乙", "line\nbreak \"quoted\" \\ 😀", None, 3]},
        "分": {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 9}, "maxItems": 2}, "maxItems": 2},
        "x": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["姓名", "级别", "分"],
    "additionalProperties": False,
}  # fmt: skip
YES_NO = {"enum": ["是", "否"]}
SENTENCEPIECE = Path(__file__).parents[4] / "shared/data/tiny_weights/llama2_tokenizer.model"

leaves = st.one_of(
    st.just({"type": "boolean"}), st.just({"type": "null"}),
    st.builds(lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)}, st.integers(-999, 999), st.integers(-999, 999)),
    st.just({"type": "number", "minimum": -2.5, "maximum": 2.5}),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 8)),
    st.just({"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,4}$"}), st.just({"type": "string", "format": "date"}),
    st.builds(lambda found: {"enum": found}, st.lists(st.one_of(st.text(max_size=6), st.integers(-99, 99), st.none()), min_size=1, max_size=4)),
    st.builds(lambda found: {"const": found}, st.sampled_from(["中文", "a\tb", '"', "\\", "\u2028", "😀", 0, True, [1, {"k": "值"}]])),
)  # fmt: skip
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda item, n: {"type": "array", "items": item, "maxItems": n}, inner, st.integers(0, 3)),
        st.builds(
            lambda found, n: {
                "type": "object", "properties": found, "required": sorted(found)[:n], "additionalProperties": False,
            },
            st.dictionaries(st.text("ab中文 \"\\/é", min_size=1, max_size=4), inner, max_size=3), st.integers(0, 3),
        ),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
    ),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def grammars(encoder: Encoder) -> Grammars:
    return Grammars(encoder.tokenizer, encoder.stop_ids)


def fits(text: str, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(json.loads(text))


def strings(value: Any) -> list[str]:
    """Every text in it, names too."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def drawn(hold: Hold, vocab_size: int, stops: frozenset[int], seed: int, most: int = 400) -> tuple[list[int], bool]:
    """What a model with no preference at all writes; whether it came to its end."""
    dice, ids = np.random.default_rng(seed), []
    while len(ids) < most:
        may = np.flatnonzero(hold.bias(vocab_size) == 0)
        ends = [token for token in may if int(token) in stops]
        token = int(ends[0] if ends and dice.random() < 0.5 else dice.choice(may))
        if token in stops:
            return ids, True
        hold.take(token)
        ids.append(token)
        if hold.is_over:
            return ids, True
    return ids, False


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(schema=schemas, seed=st.integers(0, 2**32))
def test_what_comes_out_fits_whatever_the_schema(grammars: Grammars, encoder: Encoder, schema: Any, seed: int) -> None:
    try:
        hold = grammars.of(schema).begin()
    except EngineError:
        assert any(ord(letter) < 32 or letter == "\x7f" for letter in "".join(strings(schema))), (
            "every other one can be kept"
        )
        return
    ids, is_whole = drawn(hold, encoder.tokenizer.vocab_size, frozenset(encoder.stop_ids), seed)
    if is_whole:
        fits(encoder.answer_text(ids), schema)


@pytest.mark.parametrize("letter", [chr(number) for number in (*range(32), 0x7F, 0x85, 0xAD, 0x2028, 0xFEFF)])
def test_letters_that_nobody_sees_are_written_or_refused(grammars: Grammars, encoder: Encoder, letter: str) -> None:
    schema = {"enum": [f"a{letter}b"]}
    if (letter < " " or letter == "\x7f") and letter not in "\b\f\n\r\t":
        with pytest.raises(EngineError, match=f"U\\+{ord(letter):04X}"):
            grammars.of(schema)
        return
    hold = grammars.of(schema).begin()
    ids, is_whole = drawn(hold, encoder.tokenizer.vocab_size, frozenset(encoder.stop_ids), 1)
    assert is_whole
    fits(encoder.answer_text(ids), schema)


def test_a_sentencepiece_vocabulary_holds_too(tmp_path: Path) -> None:
    if not SENTENCEPIECE.is_file():
        pytest.skip("the shared data lie elsewhere")
    shutil.copy(SENTENCEPIECE, tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}')
    tokenizer = Tokenizer.load(tmp_path)
    grammar = Grammars(tokenizer, tokenizer.eos_ids).of(CARD)
    wholes = 0
    for seed in range(12):
        ids, is_whole = drawn(grammar.begin(), tokenizer.vocab_size, tokenizer.eos_ids, seed)
        wholes += is_whole
        if is_whole:
            fits(tokenizer.decode(ids), CARD)
    assert wholes > 6


def test_control_tokens_are_nobodys_words_and_an_end_comes_only_where_it_is_whole(grammars, encoder) -> None:
    hold = grammars.of({"type": "string"}).begin()
    control, stops = list(encoder.tokenizer.control_tokens.values()), sorted(encoder.stop_ids)
    for piece in ('"', "中", '"'):
        assert not (hold.bias(encoder.tokenizer.vocab_size)[control] == 0).any()
        for token in encoder.tokenizer.encode_text(piece):
            hold.take(token)
    assert (hold.bias(encoder.tokenizer.vocab_size)[stops] == 0).all() and hold.is_over
    assert len(hold.bias(9_999)) == 9_999 and not (hold.bias(9_999)[encoder.tokenizer.vocab_size :] == 0).any()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
        ({"type": "string", "format": "postcode"}, "postcode"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch"),
        ({"$ref": "http://10.0.0.1/schema"}, "does not fetch"),
        ({"type": 5}, "type"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "Unsatisfiable"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
        ({"type": "integer", "multipleOf": 999_983}, "multipleOf"),
        ({"type": "number", "multipleOf": 1e-300}, "multipleOf"),
        ({"allOf": [{"anyOf": [{"type": "object", "properties": {f"{i}{j}": {}}, "required": [f"{i}{j}"]} for i in range(4)]} for j in range(12)]}, "too large"),
        ({"enum": ["x" * MOST_BYTES]}, "larger"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_in_words_and_soon(grammars: Grammars, schema: Any, words: str) -> None:
    began = time.process_time()
    with pytest.raises(EngineError) as caught:
        grammars.of(schema)
    assert words in caught.value.text and time.process_time() - began < 2


@pytest.mark.parametrize(
    "text", ['{"\\u0061": "x"}', '{"b": 1, "a": "x"}', '{"a": 1, "a": "x"}', '{"a": "x"}', '{"a\\/": 1}']
)
def test_a_name_in_disguise_cannot_bring_another_value(grammars: Grammars, encoder: Encoder, text: str) -> None:
    shape = {"type": "object", "properties": {"a": {"type": "integer"}, "a/": {"type": "string"}}}
    hold = grammars.of(shape).begin()
    for token in encoder.tokenizer.encode_text(text):
        if hold.bias(encoder.tokenizer.vocab_size)[token] != 0:
            return
        hold.take(token)
    raise AssertionError("it was allowed")


def test_depth_is_bounded(grammars: Grammars) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    with pytest.raises(EngineError) as caught:
        grammars.of(deep)
    assert caught.value.key == "grammar.too_deep"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string", "minLength": 3000, "maxLength": 9000}, "minItems": 5000, "maxItems": 90000},
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1500)}},
        {"type": "string", "pattern": "(a+)+(b|c)*(x{1,1000}){1,1000}$"},
        {"type": "string", "pattern": ".*a.{30}"},
        {"enum": ["x" * 30 + str(n) for n in range(1500)]},
        {"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {"type": "string"}}, "$ref": "#/$defs/d0"},
        {"type": "integer", "multipleOf": 9973},
    ],
)  # fmt: skip
def test_hostile_schemas_cost_little(grammars: Grammars, encoder: Encoder, schema: Any) -> None:
    """Seconds of a computing thread would be everybody's; a grammar that grows too costly ends its own answer."""
    began = time.process_time()
    try:
        drawn(grammars.of(schema).begin(), encoder.tokenizer.vocab_size, frozenset(encoder.stop_ids), 3, most=40)
    except EngineError as fault:
        assert fault.key in ("grammar.broke", "grammar.bad_schema")
    assert time.process_time() - began < 3


class Room:
    """A live engine whose answers are waited for."""

    def __init__(self, folder: Path, encoder: Encoder, **settings: Any) -> None:
        self.mail: queue.Queue[Update] = queue.Queue()
        self.live = Live(
            load_model(folder, dtype="fp32"), encoder, base="base", num_threads=1, **settings,
            deliver=lambda updates: [self.mail.put(update) for update in updates],
        )  # fmt: skip
        self.live.start()

    def all(self, *asked: tuple[str, Sampling, SamplingExtras]) -> list[tuple[str, str]]:
        """(text, finish) of each, all at once."""
        tickets = [
            self.live.submit(self.live.encoder.encode_prompt((Message("user", text),)), sampling, extras, model="base")
            for text, sampling, extras in asked
        ]
        found: dict[int, tuple[str, str]] = {}
        while len(found) < len(tickets):
            update = self.mail.get(timeout=PATIENCE_S)
            if update.finish is not None:
                found[id(update.ticket)] = (update.piece, update.finish if update.fault is None else update.fault.key)
        return [found[id(ticket)] for ticket in tickets]


@pytest.fixture(scope="module", params=["packed", "plain"])
def room(request: pytest.FixtureRequest, folder: Path, encoder: Encoder) -> Iterator[Room]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(living, "packed", lambda *given, **named: None)
        one = Room(folder, encoder, num_slots=8)
    yield one
    one.live.stop()


def test_rows_of_many_grammars_in_one_batch_leave_their_neighbours_alone(room: Room, grammars: Grammars) -> None:
    free = [
        (text, Sampling(24, temperature=heat, seed=4), extras)
        for text in QUESTIONS
        for heat, extras in ((0.0, PLAIN), (1.1, PLAIN), (0.9, SamplingExtras(frequency=0.5, num_likeliest=2)))
    ]
    alone = [room.all(one)[0] for one in free]
    shapes = [ANY_OBJECT, CARD, YES_NO, {"type": "array", "items": {"type": "number"}, "maxItems": 3}]
    held = [
        (QUESTIONS[n % 4], Sampling(72, temperature=heat, seed=n, top_k=top_k, top_p=top_p), SamplingExtras(frequency=0.3 * (n % 2), min_p=0.01 * (n % 3), grammar=grammars.of(shape)))
        for n, shape in enumerate(shapes)
        for heat, top_k, top_p in ((0.0, 0, 1.0), (1.3, 40, 0.9), (1.5, 0, 0.95), (1.5, 0, 1.0))
    ]  # fmt: skip
    mixed = [one for pair in zip(held, [*free, *free], strict=False) for one in pair]
    answers = room.all(*mixed)
    num_whole = 0
    for (_, _, extras), (text, finish) in zip(held, answers[::2], strict=True):
        assert finish in ("stop", "length")
        if finish == "stop":
            schema = next(shape for shape in shapes if grammars.of(shape) is extras.grammar)
            fits(text, schema)
            num_whole += 1
    assert num_whole >= len(held) // 4
    assert answers[1::2] == (alone * 2)[: len(held)]
    again = room.all(*held[:6])
    assert again == answers[:12:2], "a held row too is the one it would be among others"


def test_a_cut_answer_says_so(room: Room, grammars: Grammars) -> None:
    long = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    ((text, finish),) = room.all((QUESTIONS[0], Sampling(12), SamplingExtras(grammar=grammars.of(long))))
    assert finish == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    ((text, finish),) = room.all((QUESTIONS[0], Sampling(40), SamplingExtras(grammar=grammars.of(YES_NO))))
    assert finish == "stop" and json.loads(text) in ("是", "否")


def test_a_grammar_that_grows_too_costly_fails_its_own_answer_only(room: Room, grammars: Grammars) -> None:
    class Costly:
        def begin(self) -> Any:
            return self

        def bias(self, vocab_size: int) -> Any:
            raise EngineError("grammar.no_way_on")

    bad: Any = SamplingExtras(grammar=Costly())  # type: ignore[arg-type]
    plain = (QUESTIONS[1], Sampling(16), PLAIN)
    alone = room.all(plain)[0]
    answers = room.all((QUESTIONS[0], Sampling(16), bad), plain)
    assert answers[0][1] == "grammar.no_way_on" and answers[1] == alone


def test_the_formats_that_a_body_may_name(encoder: Encoder) -> None:
    reader = Reader({True: encoder, False: encoder}, Sampling())
    body = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
    assert reader.chat(body | {"response_format": {"type": "text"}}).extras is PLAIN
    named = {"type": "json_schema", "json_schema": {"name": "card", "strict": True, "schema": CARD}}
    assert reader.chat(body | {"response_format": named}).extras.grammar is reader.grammars.of(CARD)
    assert reader.chat(body | {"response_format": {"type": "json_object"}}).extras.grammar is not None
    for bad in (
        "json", [], {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_object", "more": 1}, {"type": "json_schema", "json_schema": {"name": "x", "schema": True}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}},
    ):  # fmt: skip
        with pytest.raises(RefusedError) as caught:
            reader.chat(body | {"response_format": bad})
        assert caught.value.param.startswith("response_format") and caught.value.to_json()["error"]["message"]


def test_logits_that_are_no_numbers_stay_none(grammars: Grammars, encoder: Encoder) -> None:
    from danlu.engines.rows import Row
    from danlu.engines.sampling import hold_each

    logits_BV = torch.zeros(2, encoder.tokenizer.vocab_size, dtype=torch.bfloat16)
    logits_BV[0, 3] = float("nan")
    rows = [Row(n, [1], 9, extras=SamplingExtras(grammar=grammars.of(YES_NO))) for n in range(2)]
    hold_each(logits_BV, rows)
    assert logits_BV[0].isnan().any() and logits_BV[1].max() == 0 and logits_BV[1].isinf().sum() > 100
