"""Tokenizer: ids equal to transformers', control tokens in text are text, both backends."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from chat_files import SHARED, SPECIAL, write_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DataError
from danlu.data.marks import without_noncharacters
from danlu.data.tokenizer import Tokenizer

TEXTS = [
    "",
    "Hello, world!  two  spaces\n\n",
    "出差住宿标准?",
    "emoji 😀👨‍👩‍👧 🇫🇷",
    "tab\tand\r\nline",
    "naïve café ﬁ",
    " lead",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


def test_ids_equal_transformers(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert tokenizer.encode_text(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_texts(TEXTS) == [tokenizer.encode_text(text) for text in TEXTS]
    assert tokenizer.vocab_size == len(theirs)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (theirs.eos_token_id, theirs.pad_token_id)


@given(
    st.lists(st.one_of(st.text(max_size=12), st.sampled_from([*SPECIAL, "<|im_", "end|>"])), max_size=6).map("".join)
)
@settings(max_examples=150)
def test_text_never_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    assert not set(ids) & set(tokenizer.control_tokens.values())
    assert tokenizer.decode(ids, skip_control=True) == without_noncharacters(text)


def test_parts_read_as_one_text(tokenizer: Tokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    start, end = tokenizer.control_id("<|im_start|>"), tokenizer.control_id("<|im_end|>")
    ids, owners = tokenizer.encode_parts([start, "user\n", "你好 <|im_end|>", end, "\n"])
    assert [owners[0], owners[-1]] == [0, 4] and owners == sorted(owners)
    assert ids.count(end) == 1
    assert tokenizer.decode(ids, skip_control=False) == "<|im_start|>user\n你好 <|im_end|><|im_end|>\n"
    plain = AutoTokenizer.from_pretrained(folder)("<|im_start|>user\n你好<|im_end|>\n", add_special_tokens=False)[
        "input_ids"
    ]
    assert tokenizer.encode_parts([start, "user\n你好", end, "\n"])[0] == plain


def test_no_token_spans_a_border(tokenizer: Tokenizer) -> None:
    whole, _ = tokenizer.encode_parts(["answer:\n\n", "\n\nyes"])
    ids, owners = tokenizer.encode_parts(["answer:\n\n", "\n\nyes"], borders=[1])
    assert ids == tokenizer.encode_text("answer:\n\n") + tokenizer.encode_text("\n\nyes")
    assert owners.count(0) == len(tokenizer.encode_text("answer:\n\n"))
    assert tokenizer.decode(ids) == tokenizer.decode(whole)


def test_eos_set_joins_generation_config(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    number = Tokenizer.load(folder).control_id("<|endoftext|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [number, 10_000_000]}))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.eos_ids == {number, tokenizer.control_id("<|im_end|>")}


def test_digest_is_of_the_files(tmp_path: Path) -> None:
    first, second = write_tokenizer(tmp_path / "a"), tmp_path / "b"
    shutil.copytree(first, second)
    assert Tokenizer.load(first).digest == Tokenizer.load(second).digest
    write_tokenizer(second, eos="</s>")
    assert Tokenizer.load(first).digest != Tokenizer.load(second).digest


def test_folder_without_tokenizer_or_with_a_broken_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def _pieces(tmp_path: Path, name: str, **config: object) -> Tokenizer:
    path = SHARED / "tokenizers" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    shutil.copy(path, tmp_path / "tokenizer.model")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["mistral_tokenizer.model.v1", "mistral_tokenizer_240323.model.v3"])
def test_sentencepiece_text_is_text(tmp_path: Path, name: str) -> None:
    tokenizer = _pieces(tmp_path, name)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    for text in ["Hello world", "你好 <s> </s> [INST]", "😀 naïve"]:
        ids = tokenizer.encode_text(text)
        assert not set(ids) & set(tokenizer.control_tokens.values())
        assert tokenizer.decode(ids) == text
    ids, owners = tokenizer.encode_parts([1, "Hi", " there </s>", 2])
    assert ids[0] == 1 and ids[-1] == 2 and ids.count(2) == 1
    assert owners == sorted(owners) and set(owners) == {0, 1, 2, 3}
    assert tokenizer.decode(ids, skip_control=True) == "Hi there </s>"
    assert tokenizer.decode(ids, skip_control=False).startswith("<s>")


def test_sentencepiece_prefix_follows_legacy(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    new = _pieces(tmp_path / "new", "mistral_tokenizer.model.v1", legacy=False)
    old = _pieces(tmp_path / "old", "mistral_tokenizer.model.v1")
    assert new.piece(new.encode_parts(["a", 2, "b"])[0][-1]) == "b"
    assert old.piece(old.encode_parts(["a", 2, "b"])[0][-1]) == " b"


def _gguf_tokens(path: Path) -> list[str]:
    """`tokenizer.ggml.tokens` of a GGUF file: u64 count, then u64 length and bytes of each (ggml's docs/gguf.md)."""
    data = path.read_bytes()
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8  # past the types of array and items
    (count,) = struct.unpack_from("<Q", data, at)
    at += 8
    tokens = []
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, at)
        tokens.append(data[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    return tokens


def test_sentencepiece_equals_llama_cpp_on_its_own_vectors(tmp_path: Path) -> None:
    """llama.cpp's known answers for Llama's vocabulary, which is put back into a SentencePiece file first."""
    source = SHARED / "tokenizers" / "ggml-vocab-llama-spm.gguf"
    if not source.is_file():
        pytest.skip(f"{source} is not here")
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    for number, piece in enumerate(_gguf_tokens(source)):
        # Llama's scores are its ranks, but runs of spaces come last; pieces 3-258 are the 256 bytes.
        kind = 2 if number == 0 else 3 if number < 3 else 6 if number < 259 else 1
        model.pieces.add(piece=piece, score=-1e9 if set(piece) == {"▁"} else min(0, 259 - number), type=kind)
    model.trainer_spec.model_type = pb.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.CopyFrom(
        pb.NormalizerSpec(name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False)
    )
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    tokenizer = Tokenizer.load(tmp_path)
    texts = source.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    answers = source.with_suffix(".gguf.out").read_text(encoding="utf-8").splitlines()
    assert len(answers) > 40 and len(texts) - len(answers) == 1  # the last answer is missing from the file
    for text, answer in zip(texts[:-1], answers, strict=True):
        assert tokenizer.encode_text(text) == [int(number) for number in answer.split()]


@pytest.mark.parametrize("legacy", [True, False])
def test_llama_files_converted_by_transformers(tmp_path: Path, legacy: bool) -> None:
    """Metaspace puts a space at the text's start only, or after every control token: both read as transformers reads them."""
    from transformers import LlamaTokenizer

    _pieces(tmp_path, "mistral_tokenizer.model.v1", legacy=legacy)
    theirs = LlamaTokenizer.from_pretrained(tmp_path, legacy=legacy)
    theirs.save_pretrained(tmp_path / "fast")
    tokenizer = Tokenizer.load(tmp_path / "fast")
    text = "<s>[INST] hi  there [/INST] ok 好 </s>[INST] two"
    parts: list[str | int] = [1, "[INST] hi  there [/INST]", " ok 好 ", 2, "[INST] two"]
    assert tokenizer.encode_parts(parts, borders=[2])[0] == theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_text("a</s>b") != theirs("a</s>b", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("flags", [{"rstrip": True}, {"lstrip": True}, {"lstrip": True, "rstrip": True}])
def test_control_tokens_that_swallow_spaces(tmp_path: Path, flags: dict[str, bool]) -> None:
    """Phi-3's <|end|> takes the line end after it along; Mistral's and BERT's take the space before."""
    from transformers import AutoTokenizer

    folder = write_tokenizer(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for row in content["added_tokens"]:
        if row["content"] == "<|end|>":
            row.update(flags)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    theirs, tokenizer = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    end = tokenizer.control_id("<|end|>")
    ids, _ = tokenizer.encode_parts(["hi \n", end, "\n there"])
    assert ids == theirs("hi \n<|end|>\n there", add_special_tokens=False)["input_ids"]
    assert end not in tokenizer.encode_text("hi <|end|> there")
