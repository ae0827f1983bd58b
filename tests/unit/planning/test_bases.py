"""The table of known bases: parameter counts as the models' own files have them, to the unit."""

from __future__ import annotations

import pytest

from danlu.planning.bases import BASES, known_base, near_bases

# Summed over the tensors of the published checkpoints.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-3-1b-it": 999_885_952,
    "microsoft/phi-4": 14_659_507_200,
    "01-ai/Yi-1.5-6B-Chat": 6_061_035_520,
}


@pytest.mark.parametrize("base", PUBLISHED)
def test_a_known_base_is_counted_to_the_unit(base: str) -> None:
    shapes = known_base(base)
    assert shapes is not None
    assert shapes.num_params == PUBLISHED[base]


def test_lora_on_qwen_7b_trains_as_many_as_peft_says() -> None:
    shapes = known_base("Qwen/Qwen2.5-7B-Instruct")
    assert shapes is not None
    assert shapes.lora_params(16, None) == 40_370_176


@pytest.mark.parametrize("name", ["qwen2.5-7b", "QWEN2.5-7B", "unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "Qwen/Qwen2-7B"])
def test_a_base_is_known_by_any_usual_name(name: str) -> None:
    assert known_base(name) == BASES["qwen2.5-7b"]


def test_an_unknown_base_is_not_taken_for_a_known_one() -> None:
    for name in ("Qwen/Qwen2.5-9B", "me/secret", "", "-instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "gemma-2"):
        assert known_base(name) is None, name
    assert "qwen2.5-7b" in near_bases("Qwen/Qwen2.5-8B-Instruct")
