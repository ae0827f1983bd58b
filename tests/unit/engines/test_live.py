"""Many streams at once: whoever shares the batch, each answer is the one it would be alone; adapters side by side on
one base; long prompts in pieces; cancelling; what is told of a token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.core.errors import EngineError, ModelError
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.engines import packed as packing
from danlu.engines.engine import Question, Sampling
from danlu.engines.live import Live, Ticket, Update
from danlu.engines.native import NativeEngine
from danlu.engines.sampling_extras import SamplingExtras
from danlu.model.build import load_model
from danlu.model.quantizers.quantizer import Quantize
from tiny_chat import QUESTIONS, TEXTS

GREEDY = Sampling(max_new_tokens=24)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def adapter_in(folder: Path, base: Path, seed: int, rank: int, targets: str | list[str] = "all-linear") -> Path:
    model = load_model(base, dtype="fp32")
    adapter = LoRA(rank=rank, targets=targets).attach(model)
    with torch.no_grad():
        for name, weight in adapter.parameters().items():
            if name.endswith("lora_B"):
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + len(name)))
    adapter.save(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("adapters")
    return {
        "law@1": adapter_in(place / "law", folder, 1, 4),
        "care@1": adapter_in(place / "care", folder, 2, 7, ["q_proj", "up_proj", "down_proj"]),
        "odd@1": adapter_in(place / "odd", folder, 3, 2, ["v_proj"]),
    }


class Room:
    """A live engine, and the mail of what it told."""

    def __init__(self, live_of, **settings) -> None:
        self.updates: dict[int, list[Update]] = {}
        self.changed = threading.Condition()
        self.live: Live = live_of(deliver=self._hear, **settings)

    def _hear(self, updates: list[Update]) -> None:
        with self.changed:
            for update in updates:
                self.updates.setdefault(id(update.ticket), []).append(update)
            self.changed.notify_all()

    def wait(self, ticket: Ticket, num: int | None = None) -> list[Update]:
        """All updates of an answer, or the first so many."""

        def there() -> bool:
            told = self.updates.get(id(ticket), [])
            return len(told) >= num if num is not None else bool(told) and told[-1].finish is not None

        with self.changed:
            assert self.changed.wait_for(there, timeout=60), "no answer in a minute"
            return list(self.updates[id(ticket)])


@pytest.fixture
def room_of(folder: Path, encoder: Encoder, adapters: dict[str, Path]) -> Iterator[type]:
    rooms: list[Room] = []

    def make(device: str = "cpu", **settings) -> Room:
        room = Room(
            lambda deliver, **more: Live(
                load_model(folder, dtype="fp32", device=device), encoder, base="base", deliver=deliver, **more
            ),
            **settings,
        )
        for name, place in adapters.items():
            room.live.load(name, place)
        rooms.append(room)
        return room

    yield make
    for room in rooms:
        if room.live.is_alive:
            room.live.stop()


def prompts(encoder: Encoder, num: int = 24) -> list[list[int]]:
    asked = [(Message("user", QUESTIONS[n % 4] + TEXTS[n % 3][: 5 * n]),) for n in range(num)]
    return [encoder.encode_prompt(messages) for messages in asked]


def alone(
    folder: Path,
    encoder: Encoder,
    adapter: Path | None,
    asked: list[list[int]],
    sampling: Sampling = GREEDY,
    device: str = "cpu",
    quantize: Quantize = "none",
) -> list[list[int]]:
    """NativeEngine's answers, through the model as it is: fewer than it packs weights for; on a card only ready ids are
    continued so, greedily."""
    model = load_model(folder, dtype="fp32", device=device, quantize=quantize)
    engine = NativeEngine(model, encoder, name="alone", adapter=LoRA.load(adapter, model) if adapter else None)
    if device == "cuda":
        assert sampling.temperature == 0
        return [engine.continue_ids([ids], sampling.max_new_tokens)[0] for ids in asked]
    return [list(engine.continue_texts([ids], sampling)[0].ids) for ids in asked]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("read_tokens", "num_threads"), [(256, 1), (7, 1), (64, 3)])
def test_base_and_adapters_in_one_batch_answer_as_each_does_alone(
    folder: Path, encoder: Encoder, adapters: dict[str, Path], room_of, read_tokens: int, num_threads: int, device: str
) -> None:
    asked = prompts(encoder)
    names = ["base", *adapters]
    num_slots = 6 if num_threads == 1 else 24
    room = room_of(device, num_slots=num_slots, read_tokens=read_tokens, num_threads=num_threads)
    assert len(room.live.hands) == (num_threads if device == "cpu" else 1)
    tickets = [room.live.submit(ids, GREEDY, model=names[n % 4]) for n, ids in enumerate(asked)]
    room.live.start()
    for ticket in tickets:
        room.wait(ticket)
    for place, name in enumerate(names):
        wanted = alone(folder, encoder, adapters.get(name), asked[place::4], device=device)
        assert [ticket.row.ids for ticket in tickets[place::4]] == wanted, name
    made = {tuple(ticket.row.ids) for ticket in tickets}
    assert len(made) > 12 and room.live.facts()["cache_places_reserved"] == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("quantize", ["nf4", "int8", "fp8"])
def test_adapters_on_a_quantised_base_answer_as_each_does_in_training(
    quantize: Quantize, device: str, folder: Path, encoder: Encoder, adapters: dict[str, Path]
) -> None:
    """Training's own process multiplies layer by layer, codes dequantised anew each time. fp8 rounds inputs: a last bit
    can be a code, and once in a while a token of a model that was taught nothing."""
    model = load_model(folder, dtype="fp32", device=device, quantize=quantize)
    room = Room(lambda deliver: Live(model, encoder, base="base", deliver=deliver, num_slots=5))
    for name, place in adapters.items():
        room.live.load(name, place)
    asked, names = prompts(encoder, 8), ["base", *adapters]
    tickets = {(name, n): room.live.submit(ids, GREEDY, model=name) for n, ids in enumerate(asked) for name in names}
    room.live.start()
    for ticket in tickets.values():
        room.wait(ticket)
    room.live.stop()
    whole = {name: alone(folder, encoder, adapters.get(name), asked, device=device) for name in names}
    for name in names:
        expected = alone(folder, encoder, adapters.get(name), asked, device=device, quantize=quantize)
        given = [tickets[name, n].row.ids for n in range(len(asked))]
        alike = [one == other for one, other in zip(given, expected, strict=True)]
        assert all(alike) or (quantize == "fp8" and sum(alike) >= 4), (name, alike)
        assert expected != whole[name], "another base says other things"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_adapters_come_and_go_while_steps_are_recorded(
    folder: Path, encoder: Encoder, adapters: dict[str, Path], room_of
) -> None:
    """Loading one copies to the card from another thread than the one that records."""
    asked = prompts(encoder)
    room = room_of("cuda", num_slots=6)
    room.live.start()
    first = [room.live.submit(ids, GREEDY, model=("base", "care@1")[n % 2]) for n, ids in enumerate(asked)]
    for n in range(6):
        room.live.load(f"law@{n + 2}", adapters["law@1"])
    room.live.drop("care@1")
    second = [room.live.submit(ids, GREEDY, model=f"law@{n % 6 + 2}") for n, ids in enumerate(asked)]
    for ticket in first + second:
        assert room.wait(ticket)[-1].fault is None
    assert [t.row.ids for t in first[::2]] == alone(folder, encoder, None, asked[::2], device="cuda")
    assert [t.row.ids for t in first[1::2]] == alone(folder, encoder, adapters["care@1"], asked[1::2], device="cuda")
    assert [t.row.ids for t in second] == alone(folder, encoder, adapters["law@1"], asked, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_engine_on_a_card_answers_as_its_model_does(
    folder: Path, encoder: Encoder, adapters: dict[str, Path]
) -> None:
    """With an adapter attached, with it switched off, one question and many, in a stream."""
    model = load_model(folder, dtype="fp32", device="cuda")
    engine = NativeEngine(model, encoder, name="card", adapter=LoRA.load(adapters["law@1"], model))
    asked = prompts(encoder)
    for one in (engine, engine.base()):
        wanted = alone(folder, encoder, adapters["law@1"] if one is engine else None, asked, device="cuda")
        answers = one.continue_texts(asked, GREEDY)
        assert [list(answer.ids) for answer in answers] == wanted
        assert list(one.continue_texts(asked[:1], GREEDY)[0].ids) == wanted[0]
    question = Question((Message("user", QUESTIONS[1]),))
    assert "".join(engine.stream(question, GREEDY)) == engine.generate([question], GREEDY)[0].text


def test_answers_are_those_of_transformers_and_peft(
    folder: Path, encoder: Encoder, adapters: dict[str, Path], room_of
) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    asked = prompts(encoder, 8)
    room = room_of(num_slots=16)
    room.live.start()
    for name in ("base", "law@1"):
        tickets = [room.live.submit(ids, Sampling(max_new_tokens=32), model=name) for ids in asked]
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if name != "base":
            theirs = peft.PeftModel.from_pretrained(theirs, adapters[name])
        for ids, ticket in zip(asked, tickets, strict=True):
            out = theirs.generate(
                torch.tensor([ids]),
                do_sample=False,
                max_new_tokens=32,
                eos_token_id=sorted(encoder.stop_ids),
                pad_token_id=0,
            )
            room.wait(ticket)
            assert ticket.row.ids == out[0, len(ids) :].tolist()


def test_a_drawn_answer_is_the_one_native_draws_and_neighbours_change_nothing(
    folder: Path, encoder: Encoder, room_of
) -> None:
    drawn = Sampling(16, temperature=0.8, top_p=0.9, seed=11)
    asked = prompts(encoder, 6)
    room = room_of(num_slots=3)
    mixed = [
        room.live.submit(ids, how, model="base") for ids in asked for how in (drawn, GREEDY, Sampling(16, 1.3, top_k=5))
    ]
    room.live.start()
    for ticket in mixed:
        room.wait(ticket)
    assert [ticket.row.ids for ticket in mixed[::3]] == alone(folder, encoder, None, asked, drawn)


def test_a_long_prompt_does_not_hold_the_streams_up(encoder: Encoder, room_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """While 400 tokens are read 16 at a time, a stream gets a token at every step, and a short question passes."""
    monkeypatch.setattr(packing, "SEATED_FROM", 10**6)
    room = room_of(num_slots=4, read_tokens=16)
    long = (prompts(encoder, 1)[0] * 40)[:400]
    never = Sampling(max_new_tokens=60)
    monkeypatch.setattr(room.live.encoder, "stop_ids", frozenset())
    room.live.hands[0].decoding.stop_ids = frozenset()
    stream = room.live.submit(prompts(encoder)[3], never, model="base", is_streamed=True)
    read = room.live.submit(long, Sampling(max_new_tokens=2), model="base")
    short = room.live.submit(prompts(encoder)[2], Sampling(max_new_tokens=2), model="law@1")
    order: list[tuple[str, int]] = []
    step = room.live.hands[0].decoding.step

    def watched():
        rows = step()
        order.extend(
            (name, len(t.row.ids))
            for name, t in (("stream", stream), ("read", read), ("short", short))
            if any(row is t.row for row in rows)
        )
        return rows

    monkeypatch.setattr(room.live.hands[0].decoding, "step", watched)
    room.live.start()
    for ticket in (stream, read, short):
        room.wait(ticket)
    first_read = order.index(("read", 1))
    assert order.index(("short", 1)) < first_read
    assert sum(name == "stream" for name, _ in order[:first_read]) >= 400 // 16 - 2


def test_what_is_cancelled_is_heard_no_more_and_gives_its_seat(encoder: Encoder, room_of) -> None:
    room = room_of(num_slots=1)
    room.live.hands[0].decoding.stop_ids = frozenset()
    endless = room.live.submit(prompts(encoder)[0], Sampling(max_new_tokens=400), model="base", is_streamed=True)
    waiting = room.live.submit(prompts(encoder)[1], Sampling(max_new_tokens=4), model="law@1")
    given_up = room.live.submit(prompts(encoder)[2], GREEDY, model="base")
    room.live.start()
    room.wait(endless, 3)
    room.live.cancel(given_up)
    room.live.cancel(endless)
    room.wait(waiting)
    ends = [room.wait(ticket)[-1] for ticket in (given_up, endless)]
    assert [end.finish for end in ends] == ["cancelled"] * 2 and [
        len(room.updates[id(given_up)]),
        ends[0].num_tokens,
    ] == [1, 0]
    assert ends[1].num_tokens == len(endless.row.ids) < 400 and room.live.facts()["running"] == 0


def test_what_was_computed_is_counted_also_of_what_was_cancelled(encoder: Encoder, room_of) -> None:
    """A house that pays by its engine's counters found fewer tokens there than it had been told."""
    room = room_of(num_slots=3)
    room.live.hands[0].decoding.stop_ids = frozenset()
    room.live.start()
    asked = [Sampling(max_new_tokens=400 if n % 2 else 6) for n in range(10)]
    tickets = [
        room.live.submit(ids, how, model="base", is_streamed=True)
        for ids, how in zip(prompts(encoder, 10), asked, strict=True)
    ]
    for n, ticket in enumerate(tickets):
        if n % 2:
            if n % 4 == 1:
                room.wait(ticket, 2)
            room.live.cancel(ticket)
    ends = [room.wait(ticket)[-1] for ticket in tickets]
    assert {"cancelled"} < {end.finish for end in ends}
    facts = room.live.facts()
    assert facts["answer_tokens_total"] == sum(end.num_tokens for end in ends) == sum(len(t.row.ids) for t in tickets)
    assert facts["prompt_tokens_total"] == sum(ticket.row.num_done for ticket in tickets)
    assert facts["cancelled_total"] == sum(end.finish == "cancelled" for end in ends)


def test_a_thread_that_dies_leaves_nobody_waiting(encoder: Encoder, room_of, capsys: pytest.CaptureFixture) -> None:
    died = threading.Event()
    room = room_of(num_slots=1, died=died.set)
    tickets = [room.live.submit(ids, Sampling(max_new_tokens=400), model="base") for ids in prompts(encoder, 3)]
    room.live.hands[0].orders.put(("add", "what no engine knows"))
    tickets.append(room.live.submit(prompts(encoder)[3], GREEDY, model="base"))
    room.live.start()
    assert [room.wait(ticket)[-1].finish for ticket in tickets] == ["error"] * 4
    assert died.is_set() and not room.live.is_alive and "AttributeError" in capsys.readouterr().err


def test_the_prompt_that_many_begin_with_is_computed_once(
    folder: Path, encoder: Encoder, adapters: dict[str, Path], room_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = (Message("system", TEXTS[0] + TEXTS[1]),)
    asked = [encoder.encode_prompt((*head, Message("user", text))) for text in QUESTIONS]
    room = room_of(num_slots=4)
    sizes: list[int] = []
    through = packing.Packed._through
    monkeypatch.setattr(
        packing.Packed,
        "_through",
        lambda self, flat, wanted: (sizes.append(len(flat.ids)), through(self, flat, wanted))[1],
    )
    room.live.start()
    tickets = []
    for ids in asked:  # one after the other, while the first still writes
        tickets.append(room.live.submit(ids, Sampling(max_new_tokens=24), model="law@1", is_streamed=True))
        room.wait(tickets[-1], 2)
    for ticket in tickets:
        room.wait(ticket)
    assert [ticket.row.ids for ticket in tickets] == alone(folder, encoder, adapters["law@1"], asked)
    assert sum(sizes) < len(asked[0]) + sum(map(len, asked[1:])) / 2 + sum(len(t.row.ids) for t in tickets)
    room.live.drop("law@1")
    with pytest.raises(EngineError, match="law@1"):
        room.live.submit(asked[0], GREEDY, model="law@1")
    base = room.live.submit(asked[0], GREEDY, model="base")
    room.wait(base)
    assert [base.row.ids] == alone(folder, encoder, None, asked[:1])


def test_log_probabilities_are_the_models_own(folder: Path, encoder: Encoder, room_of) -> None:
    room = room_of()
    room.live.start()
    (ids,) = prompts(encoder, 1)
    ticket = room.live.submit(
        ids, Sampling(8, temperature=1.5, seed=4), SamplingExtras(frequency=0.5, num_likeliest=3), model="base"
    )
    room.wait(ticket)
    engine = NativeEngine(load_model(folder, dtype="fp32"), encoder, name="base")
    (logits_TV,) = engine.logits([ids + ticket.row.ids])
    for place, (token, told) in enumerate(zip(ticket.row.ids, ticket.row.log_probs, strict=True), start=len(ids) - 1):
        wanted = logits_TV[place].double().log_softmax(-1)
        assert told.log_prob == pytest.approx(float(wanted[token]), abs=1e-4)
        assert [other for other, _ in told.likeliest] == wanted.topk(3).indices.tolist()


def test_penalties_keep_an_answer_from_repeating_itself(encoder: Encoder, room_of) -> None:
    room = room_of()
    room.live.hands[0].decoding.stop_ids = frozenset()
    room.live.start()
    (ids,) = prompts(encoder, 1)
    how = Sampling(max_new_tokens=60)
    plain, frequent, repeated = (
        room.live.submit(ids, how, extras, model="base")
        for extras in (SamplingExtras(), SamplingExtras(frequency=2.0, presence=2.0), SamplingExtras(repetition=50.0))
    )
    for ticket in (plain, frequent, repeated):
        room.wait(ticket)
    assert len(set(plain.row.ids)) < len(set(frequent.row.ids))
    assert len(set(repeated.row.ids)) == 60 and not set(repeated.row.ids) & set(ids)
    likely = room.live.submit(ids, Sampling(20, temperature=5.0, seed=1), SamplingExtras(min_p=1.0), model="base")
    room.wait(likely)
    assert likely.row.ids == plain.row.ids[:20], "only the likeliest is as likely as the likeliest"


def test_weights_that_are_no_numbers_fail_their_own_rows_only(folder: Path, encoder: Encoder, room_of) -> None:
    room = room_of()
    lens = room.live.lenses["odd@1"]
    sides = next(pair for pair in lens.sides[0] if pair is not None)
    sides[0].fill_(float("inf"))
    bad, good = (room.live.submit(prompts(encoder)[1], GREEDY, model=name) for name in ("odd@1", "base"))
    room.live.start()
    assert room.wait(bad)[-1].finish == "error"
    assert room.wait(good)[-1].fault is None


def test_a_step_that_breaks_fails_who_is_in_it_and_the_next_are_served(
    encoder: Encoder, room_of, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    room = room_of(num_slots=2)
    run = room.live.hands[0].decoding.forward.run
    broken = iter([True])

    def once(spans):
        if next(broken, False):
            raise RuntimeError("out of memory")
        return run(spans)

    monkeypatch.setattr(room.live.hands[0].decoding.forward, "run", once)
    tickets = [room.live.submit(ids, GREEDY, model="base") for ids in prompts(encoder, 4)]
    room.live.start()
    assert [room.wait(ticket)[-1].finish == "error" for ticket in tickets] == [True, True, False, False]
    assert "out of memory" in capsys.readouterr().err


def test_what_cannot_be_answered_is_said_at_once(
    encoder: Encoder, room_of, adapters: dict[str, Path], tmp_path: Path
) -> None:
    room = room_of(context=64)
    for ids, how, key in (
        ([5] * 64, GREEDY, "engine.prompt_too_long"), ([], GREEDY, "engine.empty_prompt"),
        ([5], Sampling(temperature=-1), "engine.bad_sampling"),
    ):  # fmt: skip
        with pytest.raises(EngineError) as caught:
            room.live.submit(ids, how, model="base")
        assert caught.value.key == key
    with pytest.raises(EngineError) as caught:
        room.live.load("law@1", adapters["care@1"])
    assert caught.value.key == "engine.lens_taken"
    with pytest.raises(ModelError):
        room.live.load("new@1", tmp_path)


def test_a_model_that_no_packing_is_known_of_answers_without_adapters(
    folder: Path, encoder: Encoder, adapters: dict[str, Path]
) -> None:
    def odd() -> torch.nn.Module:
        model = load_model(folder, dtype="fp32")
        model.model.layers[0].mlp.extra = torch.nn.Linear(4, 4)
        return model

    room = Room(lambda deliver: Live(odd(), encoder, base="base", deliver=deliver, num_slots=3))
    asked = prompts(encoder, 7)
    tickets = [room.live.submit(ids, GREEDY, model="base") for ids in asked]
    room.live.start()
    for ticket in tickets:
        room.wait(ticket)
    engine = NativeEngine(odd(), encoder, name="alone")
    assert [ticket.row.ids for ticket in tickets] == [
        list(engine.continue_texts([ids], GREEDY)[0].ids) for ids in asked
    ]
    with pytest.raises(EngineError) as caught:
        room.live.load("law@1", adapters["law@1"])
    assert caught.value.key == "engine.no_lenses"
    room.live.stop()
