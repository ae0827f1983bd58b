"""Encoder: nothing is cut unseen, ends are learnt, prompts are what engines send."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_files import CHATML, QWEN3, SHARED, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import TemplateError
from danlu.data.chunk import chunk
from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer

AT = Origin("qa.jsonl", 17)
S, U, A = (lambda text, role=role: Message(role, text) for role in ("system", "user", "assistant"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("encode"))


def encoder(folder: Path, context: int | None = 512, over_length: Any = "drop", **options: Any) -> Encoder:
    tokenizer = Tokenizer.load(folder)
    return Encoder(tokenizer, Template.load(folder, tokenizer), context, over_length, **options)


def talk(*messages: Message) -> Conversation:
    return Conversation(messages, AT)


def used(num_rows: int = 1) -> Ledger:
    ledger = Ledger()
    ledger.use(num_rows)
    return ledger


def learnt(encoder: Encoder, tokens: Any) -> str:
    return encoder.tokenizer.decode(tokens.ids[tokens.weights > 0], skip_control=False)


def test_conversation_learns_answers_with_their_end(folder: Path) -> None:
    """Pain 13."""
    enc, ledger = encoder(folder), used()
    (tokens,) = enc.encode(talk(S("s"), U("问"), A("答"), U("q"), A("a")), ledger)
    assert learnt(enc, tokens) == "答<|im_end|>a<|im_end|>"
    assert ledger.counts["supervised_tokens"] == tokens.num_supervised
    assert ledger.counts["tokens"] == len(tokens) and ledger.counts["eos_lost"] == 0


def test_prompt_and_answer_are_the_trained_ids(folder: Path) -> None:
    enc = encoder(folder)
    (tokens,) = enc.encode(talk(U("出差?"), A("每晚 400 元。")), used())
    prompt = enc.encode_prompt([U("出差?")])
    assert tokens.ids[: len(prompt)].tolist() == prompt
    assert not tokens.weights[: len(prompt)].any() and tokens.weights[len(prompt)]
    assert enc.answer_text(tokens.ids[len(prompt) :].tolist()) == "每晚 400 元。"


def test_row_with_nothing_to_learn_is_refused(folder: Path) -> None:
    """Pain 15: all labels masked, loss 0 or NaN."""
    enc, ledger = encoder(folder), used()
    assert enc.encode(talk(U("q"), Message("assistant", "a", train=False)), ledger) == []
    assert ledger.counts["fully_masked"] == 1 and ledger.num_used == 0
    assert "qa.jsonl:17" in str(ledger.rejects[0])
    ledger.check()


def test_a_row_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    refusing = "{% if messages | length == 4 %}{{ raise_exception('not four') }}{% endif %}" + CHATML
    enc, ledger = encoder(write_tokenizer(tmp_path, template=refusing)), used()
    assert enc.encode(talk(U("q"), A("a"), U("q"), A("a")), ledger) == []
    assert "not four" in str(ledger.rejects[0])


def test_eos_is_appended_where_a_template_has_no_end_of_turn(tmp_path: Path) -> None:
    """Pain 13 again: Amberchat-like templates write nothing that a model could stop at."""
    text = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    enc, ledger = encoder(write_tokenizer(tmp_path, template=text, eos="</s>")), used()
    (tokens,) = enc.encode(talk(U("q"), A("a")), ledger)
    assert learnt(enc, tokens).endswith("</s>") and ledger.counts["eos_lost"] == 0


def test_double_bos_is_counted_and_never_made_here(tmp_path: Path) -> None:
    """Pain 14: the template writes BOS and so does the tokenizer."""
    write_tokenizer(tmp_path, template="{{ bos_token }}" + CHATML, bos="<s>", add_bos=True)
    enc, ledger = encoder(tmp_path), used(2)
    (tokens,) = enc.encode(talk(U("<s>"), A("a")), ledger)
    assert tokens.ids.tolist().count(enc.tokenizer.bos_id) == 1 and ledger.counts["double_bos"] == 0
    (tokens,) = enc.encode(Document("text", AT), ledger)
    assert tokens.ids[0] == enc.tokenizer.bos_id and tokens.ids[-1] == enc.tokenizer.eos_id
    write_tokenizer(tmp_path, template="{{ bos_token + bos_token }}" + CHATML, bos="<s>", add_bos=True)
    enc.__init__(enc.tokenizer, Template.load(tmp_path, enc.tokenizer), 512)  # type: ignore[misc]
    enc.encode(talk(U("q"), A("a")), ledger)
    assert ledger.counts["double_bos"] == 1


LONG = [S("rules"), U("first question " * 8), A("first answer"), U("second question " * 8), A("second answer")]


def test_over_length_drop_names_the_numbers(folder: Path) -> None:
    """Pain 11: never a silent cut."""
    enc, ledger = encoder(folder, 40), used()
    assert enc.encode(talk(*LONG), ledger) == []
    entry = ledger.rejects[0]
    assert entry.reason == "encode_over_length" and entry.values["context"] == 40 and entry.values["tokens"] > 40
    assert str(entry.values["tokens"]) in str(entry)


def test_over_length_split_keeps_whole_exchanges(folder: Path) -> None:
    enc = encoder(folder, None)
    whole = len(enc.encode(talk(*LONG), used())[0])
    enc, ledger = encoder(folder, whole - 5, "split"), used()
    parts = enc.encode(talk(*LONG), ledger)
    assert [learnt(enc, part) for part in parts] == ["first answer<|im_end|>", "second answer<|im_end|>"]
    assert all(enc.tokenizer.decode(part.ids).startswith("system\nrules") for part in parts)
    assert ledger.changes[0].values["parts"] == 2 and ledger.num_used == 1


def test_over_length_truncate_prompt_keeps_the_answer_and_the_structure(folder: Path) -> None:
    enc, ledger = encoder(folder, 48, "truncate-prompt"), used()
    (tokens,) = enc.encode(talk(S("rules"), U("old " * 100 + "the end of it?"), A("a whole answer")), ledger)
    assert len(tokens) <= 48 and learnt(enc, tokens) == "a whole answer<|im_end|>"
    text = enc.tokenizer.decode(tokens.ids, skip_control=False)
    assert (
        text.startswith("<|im_start|>system\nrules<|im_end|>\n<|im_start|>user\n")
        and "the end of it?<|im_end|>" in text
    )
    change = ledger.changes[0]
    assert change.values["kept"] == len(tokens) and ledger.counts["cut"] == change.values["tokens"] - len(tokens)


def test_over_length_truncate_prompt_never_cuts_an_answer(folder: Path) -> None:
    enc, ledger = encoder(folder, 48, "truncate-prompt"), used()
    assert enc.encode(talk(U("q"), A("a long answer " * 30)), ledger) == []
    assert ledger.rejects[0].reason == "encode_answer_over_length"


@given(
    st.lists(
        st.tuples(st.text("问答ab ", min_size=1, max_size=60), st.text("答案cd ", min_size=1, max_size=30)),
        min_size=1,
        max_size=4,
    ),
    st.integers(24, 120),
    st.sampled_from(["drop", "split", "truncate-prompt"]),
)
@settings(max_examples=80)
def test_no_policy_exceeds_the_context_or_cuts_an_end(
    folder: Path, turns: list[Any], context: int, policy: Any
) -> None:
    enc, ledger = encoder_of(folder), used()
    enc.context, enc.over_length = context, policy
    found = enc.encode(talk(*(m for q, a in turns for m in (U(q), A(a)))), ledger)
    ledger.check()
    assert bool(found) == bool(ledger.num_used)
    for tokens in found:
        assert len(tokens) <= context
        ends = np.flatnonzero(tokens.weights & ~np.append(tokens.weights[1:], 0))
        assert all(int(tokens.ids[end]) in enc.stop_ids for end in ends)
        assert all(answer in {a for _, a in turns} for answer in learnt(enc, tokens).split("<|im_end|>")[:-1])


_ENCODERS: dict[Path, Encoder] = {}


def encoder_of(folder: Path) -> Encoder:
    return _ENCODERS.setdefault(folder, encoder(folder))


def test_thinking_in_history_gives_each_turn_its_own_text(tmp_path: Path) -> None:
    enc, ledger = encoder(write_tokenizer(tmp_path, template=QWEN3)), used()
    first, second = Message("assistant", "1", reasoning="r"), Message("assistant", "2", reasoning="s")
    texts = [learnt(enc, tokens) for tokens in enc.encode(talk(U("a"), first, U("b"), second), ledger)]
    assert sorted(texts) == ["<think>\nr\n</think>\n\n1<|im_end|>", "<think>\ns\n</think>\n\n2<|im_end|>"]
    assert ledger.counts["turns_alone"] == 1


def test_preference_learns_only_the_continuations(folder: Path) -> None:
    enc, ledger = encoder(folder), used()
    prompt = (U("old"), A("old answer"), U("new"))
    chosen, rejected = enc.encode(Preference(prompt, (A("good"),), (A("bad, much longer"),), AT), ledger)
    assert learnt(enc, chosen) == "good<|im_end|>" and learnt(enc, rejected) == "bad, much longer<|im_end|>"
    first = int(chosen.weights.argmax())
    assert np.array_equal(chosen.ids[:first], rejected.ids[:first]) and first == int(rejected.weights.argmax())
    assert enc.encode_prompt(prompt) == chosen.ids[:first].tolist()


def test_preference_too_long_loses_the_same_prompt_on_both_sides(folder: Path) -> None:
    enc, ledger = encoder(folder, 48, "truncate-prompt"), used()
    pair = enc.encode(Preference((U("old " * 90 + "now?"),), (A("yes"),), (A("no, not at all"),), AT), ledger)
    first = int(pair[0].weights.argmax())
    assert np.array_equal(pair[0].ids[:first], pair[1].ids[:first]) and max(map(len, pair)) <= 48
    assert len(ledger.changes) == 1
    ledger = used()
    assert encoder(folder, 48).encode(Preference((U("old " * 90),), (A("y"),), (A("n"),), AT), ledger) == []
    assert ledger.rejects[0].reason == "encode_over_length"


def test_label_is_a_question_with_the_label_as_answer(folder: Path) -> None:
    enc = encoder(folder, label_prompt="Review: {text}\nGood or bad?")
    label = Label("{text} is odd", "good", AT)
    (tokens,) = enc.encode(label, used())
    assert learnt(enc, tokens) == "good<|im_end|>"
    assert (
        enc.encode_prompt(enc.conversation(label).messages[:1]) == tokens.ids[: int(tokens.weights.argmax())].tolist()
    )
    assert "Review: {text} is odd\nGood or bad?" in enc.tokenizer.decode(tokens.ids)


def test_unwanted_answers_are_not_imitated(folder: Path) -> None:
    enc, ledger = encoder(folder), used(2)
    assert len(enc.encode(Feedback((U("q"), A("a")), True, AT), ledger)) == 1
    assert enc.encode(Feedback((U("q"), A("a")), False, AT), ledger) == []
    assert ledger.rejects[0].reason == "encode_undesirable"


def test_document_is_learnt_whole_with_its_end(folder: Path) -> None:
    enc, ledger = encoder(folder), used()
    (tokens,) = enc.encode(Document("第一句。<|im_end|> is text.", AT), ledger)
    assert tokens.weights.all() and tokens.ids[-1] == enc.tokenizer.eos_id
    assert tokens.ids.tolist().count(enc.tokenizer.eos_id) == 1
    assert enc.tokenizer.decode(tokens.ids) == "第一句。<|im_end|> is text."


def test_long_document_is_split_at_sentences_without_loss(folder: Path) -> None:
    text = "".join(f"第{n}条规定员工出差每天补贴八十元。" for n in range(40)) + "The end. " * 40
    enc = encoder(folder, 64, "split")
    chunks = enc.encode(Document(text, AT), used())
    whole = encoder(folder, None).encode(Document(text, AT), used())[0]
    assert np.concatenate([tokens.ids for tokens in chunks]).tolist() == whole.ids.tolist()
    assert all(len(tokens) <= 64 for tokens in chunks)
    ends = [enc.tokenizer.decode(tokens.ids).rstrip() for tokens in chunks[:-1]]
    assert sum(end.endswith(("。", ".")) for end in ends) == len(ends)


@given(st.lists(st.sampled_from(["。", "a", " b", "\n\n", ".", ""]), max_size=200), st.integers(1, 40))
@settings(max_examples=200)
def test_chunks_join_to_what_was_cut(pieces: list[str], limit: int) -> None:
    ids = list(range(len(pieces)))
    chunks = chunk(ids, limit, pieces.__getitem__)
    assert [token for part in chunks for token in part] == ids
    assert all(0 < len(part) <= limit for part in chunks)


def test_items_keep_order_origin_and_pairs(folder: Path) -> None:
    enc, ledger = encoder(folder), used(3)
    samples = [
        Document("doc", Origin("a.txt", 1)),
        Preference((U("q"),), (A("y"),), (A("n"),), Origin("p.jsonl", 2), group="g"),
        talk(U("q"), A("a")),
    ]
    items = list(enc.items(samples, ledger))
    assert [item.origin for item in items] == ["a.txt:1", "p.jsonl:2", "qa.jsonl:17"]
    assert [len(item.tokens) for item in items] == [1, 2, 1] and items[1].group == "g"


def test_replaced_characters_are_told(folder: Path) -> None:
    ledger = used()
    encoder(folder).encode(talk(U("q\ufdd0"), A("a")), ledger)
    assert ledger.changes[0].reason == "encode_noncharacter"


def test_documents_need_no_template(folder: Path) -> None:
    enc = Encoder(Tokenizer.load(folder), None, 64)
    assert len(enc.encode(Document("text", AT), used())) == 1
    with pytest.raises(TemplateError, match=r"model\.template"):
        enc.encode_prompt([U("q")])


def test_real_conversations_equal_transformers(tmp_path: Path) -> None:
    """Pain 3, on rows as people have them: the ids that transformers makes of the same conversation."""
    from transformers import AutoTokenizer

    path = SHARED / "instruct" / "alpaca_zh_demo.json.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    enc = encoder(write_tokenizer(tmp_path), None)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = json.load(file)[:200]
    for row in rows:
        question = "\n".join(filter(None, (row["instruction"], row.get("input"))))
        (tokens,) = enc.encode(talk(U(question), A(row["output"])), used())
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
        text = theirs.apply_chat_template(turns, tokenize=False)
        assert tokens.ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]
        assert learnt(enc, tokens) == row["output"] + "<|im_end|>"


def test_real_documents_survive_a_small_context(folder: Path) -> None:
    path = SHARED / "instruct" / "c4_demo.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file][:40]
    for text in texts:
        chunks = encoder(folder, 256, "split").encode(Document(text, AT), used())
        joined = [int(token) for tokens in chunks for token in tokens.ids]
        assert encoder(folder).tokenizer.decode(joined) == text
