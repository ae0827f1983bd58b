"""The embedded base in other people's hands: `transformers` and PEFT load its folder as it lies in the package.

What is compared: ids of texts and of rendered conversations, logits, greedy answers, and an adapter that PEFT made.
llama.cpp's turn is `tests/slow/test_ember_in_llamacpp.py`. Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import unicodedata

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from danlu.adapters.load import load_trained
from danlu.adapters.lora import LoRA
from danlu.engines.native import NativeEngine
from ember_talk import CHATS, TEXTS, engine_of, prompts_of, turns_of


def theirs_of(engine: NativeEngine) -> nn.Module:
    """The same folder through `transformers`; whatever it would have to invent or leave out fails here."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        engine.model.folder, dtype=engine.model.dtype, output_loading_info=True
    )
    assert not any(told.values()), f"transformers had to help itself: {told}"
    return model.eval()


def their_logits(model: nn.Module, prompts: list[list[int]]) -> list[Tensor]:
    """logits_TV of each prompt, in fp32."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([prompt])).logits[0].float() for prompt in prompts]


@pytest.fixture(scope="module")
def engine() -> NativeEngine:
    return engine_of(torch.float32)


@pytest.fixture(scope="module")
def theirs(engine: NativeEngine) -> nn.Module:
    return theirs_of(engine)


@pytest.fixture(scope="module")
def their_tokenizer(engine: NativeEngine) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(engine.model.folder)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_reads_the_same_ids(engine, their_tokenizer, text):
    ids = engine.encoder.tokenizer.encode_text(text)
    assert their_tokenizer(text)["input_ids"] == ids
    assert their_tokenizer.decode(ids) == engine.encoder.tokenizer.decode(ids)


@pytest.mark.parametrize(("chat", "tools"), CHATS)
def test_transformers_renders_the_same_prompt(engine, their_tokenizer, chat, tools):
    rendered = engine.encoder.template.render(turns_of(chat), tools, add_generation_prompt=True)
    asked = {"tools": tools or None, "add_generation_prompt": True}
    assert their_tokenizer.apply_chat_template(chat, tokenize=False, **asked) == rendered.text
    ids = their_tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False, **asked)
    assert ids == engine.encoder.encode_prompt(turns_of(chat), tools)


def test_no_token_joins_a_number_with_anything(engine):
    """Qwen2's rule splits at each digit. Its trace in the vocabulary makes ids independent of who splits digits how."""
    tokenizer = engine.encoder.tokenizer
    pieces = [tokenizer.piece(number) for number in range(tokenizer.vocab_size)]
    assert not [piece for piece in pieces if len(piece) > 1 and any(unicodedata.category(c)[0] == "N" for c in piece)]
    assert set("0123456789") < set(pieces)


def test_both_stop_at_the_same_tokens(engine, theirs, their_tokenizer):
    assert set(theirs.generation_config.eos_token_id) == engine.encoder.stop_ids
    assert their_tokenizer.eos_token_id == engine.encoder.tokenizer.eos_id
    assert their_tokenizer.pad_token_id == engine.encoder.tokenizer.pad_id
    assert their_tokenizer.bos_token is None and engine.encoder.tokenizer.bos_id is None


def test_transformers_computes_the_same_logits(engine, theirs):
    prompts = prompts_of(engine)
    for ours, expected in zip(engine.logits(prompts), their_logits(theirs, prompts), strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)


def test_in_bf16_both_are_as_far_from_fp32(engine, theirs):
    """As the weights lie on disk. Round-off has no right answer; its size has: ours is not larger than theirs."""
    halved = engine_of(torch.bfloat16)
    prompts = prompts_of(engine)
    exact = torch.cat(their_logits(theirs, prompts))
    rounded = torch.cat(their_logits(theirs_of(halved), prompts))
    ours = torch.cat(list(halved.logits(prompts)))
    noise = (rounded - exact).abs()
    assert 0 < noise.mean() < 0.1, "bf16 is what was compared, and its noise is small"
    assert (ours - exact).abs().mean() < 1.5 * noise.mean()
    assert (ours - exact).abs().max() < 2 * noise.max()
    assert (ours - rounded).abs().max() < 2 * noise.max()


@pytest.mark.parametrize("number", range(len(CHATS)))
def test_transformers_answers_the_same(engine, theirs, number):
    prompt = prompts_of(engine)[number]
    with torch.no_grad():
        whole = theirs.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)
    assert whole[0, len(prompt) :].tolist() == engine.continue_ids([prompt], 24)[0]


def test_an_adapter_that_peft_made_is_ours_too(engine, tmp_path):
    prompts = prompts_of(engine)
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(theirs_of(engine), settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    expected = their_logits(adapted, prompts)
    base = torch.cat(list(engine.logits(prompts)))
    tuned = engine_of(torch.float32)
    tuned.adapter = load_trained(tmp_path / "adapter", tuned.model)
    ours = list(tuned.logits(prompts))
    assert (torch.cat(ours) - base).abs().max() > 1, "the adapter says something"
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def test_an_adapter_of_ours_is_pefts_too(engine, tmp_path):
    prompts = prompts_of(engine)
    tuned = engine_of(torch.float32)
    tuned.adapter = LoRA(rank=8).attach(tuned.model)
    generator = torch.Generator().manual_seed(0)
    for weight in tuned.adapter.parameters().values():
        weight.data.normal_(0, 0.05, generator=generator)
    tuned.adapter.save(tmp_path / "adapter")
    adapted = peft.PeftModel.from_pretrained(theirs_of(engine), tmp_path / "adapter").eval()
    ours = list(tuned.logits(prompts))
    assert (torch.cat(ours) - torch.cat(list(engine.logits(prompts)))).abs().max() > 1, "the adapter says something"
    for one, other in zip(ours, their_logits(adapted, prompts), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)
