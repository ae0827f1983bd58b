"""Advice: what is chosen for whom, and what is said of a tutorial's script."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from danlu.core.errors import RecipeError
from danlu.core.messages import load_room
from danlu.pipeline.advise import advise, review
from danlu.pipeline.write_recipe import write_recipe
from danlu.planning.advice import bases, script
from danlu.planning.advice.numbers import Facts, choose_numbers, choose_stages, opinions
from danlu.planning.advice.script import review_script
from danlu.recipe import Recipe
from danlu.recipe.knobs import all_knobs

TUTORIAL = """!pip install unsloth
# fine-tune Qwen
from unsloth import FastModel
length = 2048
model, tokenizer = FastModel.from_pretrained(
    model_name="unsloth/gemma-3-4b-it-unsloth-bnb-4bit", max_seq_length=length, load_in_4bit=True)
model = FastModel.get_peft_model(model, r=8, lora_alpha=8, lora_dropout=0, bias="none", random_state=3407)
tokenizer = get_chat_template(tokenizer, chat_template="gemma-3")
dataset = dataset.map(lambda row: {"text": tokenizer.apply_chat_template(row["conversations"])})
trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=dataset, eval_dataset=None,
    args=SFTConfig(dataset_text_field="text", per_device_train_batch_size=2, gradient_accumulation_steps=4,
        warmup_steps=5, max_steps=30, learning_rate=2e-4, seed=3407, report_to="none"))
trainer.train()
text = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
model.generate(**tokenizer([text], return_tensors="pt"), max_new_tokens=64)
base = AutoModelForCausalLM.from_pretrained("google/gemma-3-4b-pt")
PeftModel.from_pretrained(base, "gemma-3").merge_and_unload().save_pretrained("merged")
"""
GOOD = """
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B-Instruct")
trainer = SFTTrainer(model=model, train_dataset=train, eval_dataset=held_out,
    args=SFTConfig(assistant_only_loss=True, dataset_text_field="text", learning_rate=1e-4, seed=1, report_to="none"))
"""


def codes(text: str) -> set[str]:
    return {finding.reason.code for finding in review_script(text)}


# ---- bases


def test_the_table_is_whole() -> None:
    names = [base.name for base in bases.table()]
    assert len(names) == len(set(names)) >= 30
    for base in bases.table():
        assert base.licence.source.startswith("https://"), base.name
        assert set(base.good) <= set(bases.TASKS), base.name
        assert base.licence.commercial == "yes" or base.licence.note.keys() == {"en", "zh"}, base.name
        for name in base.ids.values():
            assert bases.find(name) is base, name


def test_the_card_decides_the_size() -> None:
    small = advise(card="RTX 4060").chosen
    large = advise(card="H200", task="write").chosen
    assert small is not None and large is not None
    assert small.plan.fits and large.plan.fits
    assert small.plan.num_params < large.plan.num_params


def test_the_language_decides_the_family() -> None:
    for language in ("zh", "en"):
        chosen = advise(card="RTX 4090", language=language).chosen
        assert chosen is not None and language in chosen.base.strong


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-3B-Instruct", "mistralai/Ministral-8B-Instruct-2410"])
def test_what_may_not_be_sold_is_refused(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        advise(card="RTX 4090", base=name)
    assert caught.value.key == "advice.not_commercial"
    assert "Qwen" in caught.value.fix, "others are named"


def test_research_may_take_it() -> None:
    chosen = advise(card="RTX 4090", base="Qwen/Qwen2.5-3B-Instruct", purpose="research").chosen
    assert chosen is not None and chosen.base.name == "qwen2.5-3b" and not chosen.against


def test_nothing_that_is_forbidden_is_ever_chosen() -> None:
    for task in bases.TASKS:
        for card in ("T4", "RTX 4090", "H200"):
            advice = advise(card=card, task=task)
            assert advice.chosen is None or advice.chosen.base.licence.commercial != "no"


@pytest.mark.parametrize("wrong", [{"task": "dance"}, {"language": "klingon"}, {"purpose": "fun"}, {"base": "no-such"}])
def test_a_wrong_wish_is_answered(wrong: dict[str, str]) -> None:
    with pytest.raises(RecipeError):
        advise(card="T4", **wrong)


# ---- numbers


def test_methods_follow_the_data() -> None:
    assert choose_stages(Facts({"document": 9}))[0] == ("pretrain",)
    assert choose_stages(Facts({"conversation": 900}))[0] == ("sft",)
    stages, _ = choose_stages(Facts({"document": 9, "conversation": 900, "preference": 50}))
    assert stages == ("pretrain", "sft", "dpo")
    said = {reason.code for reason in choose_stages(Facts({"conversation": 30}, num_duplicates=20))[1]}
    assert {"few_rows", "duplicates"} <= said


def test_many_labels_are_counted_with_commas() -> None:
    told = [reason.text() for reason in choose_stages(Facts({"label": 10_000}))[1]]
    assert len(told) == 2 and all("10,000" in line for line in told)


def test_numbers_are_knobs_within_their_bounds_and_others_are_heard() -> None:
    facts = Facts({"conversation": 1500}, num_tokens=60_000, longest_tokens=90)
    numbers = choose_numbers(facts, ("sft",), facts.context)
    assert {number.key for number in numbers} <= all_knobs(Recipe).keys()
    assert all(len(opinions(number.key)) >= 2 for number in numbers)
    assert next(n.value for n in numbers if n.key == "training.batch_tokens") == 2048


def test_the_recipe_that_is_written_is_one(tmp_path: Path) -> None:
    data = tmp_path / "qa.jsonl"
    data.write_text("".join(json.dumps({"question": f"q {n}?", "answer": f"a {n}"}) + "\n" for n in range(300)))
    advice = advise(card="RTX 4090", data=[data])
    write_recipe(advice, "mine", [data], tmp_path / "mine.yaml")
    recipe = Recipe.load(tmp_path / "mine.yaml")
    assert advice.chosen is not None
    assert recipe.model.base in advice.chosen.base.ids.values()
    assert recipe.plan_stages()[0].training.batch_tokens == 2048


def test_every_reason_can_be_said() -> None:
    room = load_room("advice", "en")
    written = Path(script.__file__).parent
    for path in written.glob("*.py"):
        for part in path.read_text().split('Reason("')[1:]:
            assert part.partition('"')[0] in room, part[:40]


# ---- scripts


def test_the_tutorial_is_refused_with_reasons() -> None:
    found = codes(TUTORIAL)
    assert found >= {
        "script_no_evaluation", "script_other_base", "script_other_family", "script_whole_text", "script_few_steps",
    }  # fmt: skip
    lines = {finding.reason.code: finding.line for finding in review_script(TUTORIAL)}
    assert lines["script_other_family"] == 2
    assert TUTORIAL.splitlines()[lines["script_other_base"] - 1].startswith("base =")


def test_a_careful_script_passes() -> None:
    assert not [finding for finding in review_script(GOOD) if finding.is_fault]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("model = AutoModelForCausalLM.from_pretrained('x/y', trust_remote_code=True)", "script_remote_code"),
        ("model.save_pretrained('out', safe_serialization=False)", "script_pickle"),
        ("model.push_to_hub('me/mine')", "script_public_hub"),
        ("args = TrainingArguments(report_to='wandb', seed=1)", "script_reports"),
        ("args = TrainingArguments(learning_rate=0.1, seed=1, report_to='none')", "script_rate"),
        ("app.run(host='0.0.0.0')", "script_open_door"),
        ("tokenizer.pad_token = tokenizer.eos_token\nc = DataCollatorForLanguageModeling(tokenizer)", "script_lost_end"),
    ],
)  # fmt: skip
def test_single_faults(line: str, code: str) -> None:
    assert code in codes(line)


def test_private_pushes_and_said_keys_are_let_alone() -> None:
    assert "script_public_hub" not in codes("model.push_to_hub('me/mine', private=True)")
    assert "script_open_door" not in codes("check(api_key)\napp.run(host='0.0.0.0')")


def test_a_notebook_is_read(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Qwen"]},
        {"cell_type": "code", "source": TUTORIAL.splitlines(True)},
    ]
    path = tmp_path / "train.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert any(finding.reason.code == "script_no_evaluation" for finding in review(path))


def test_a_script_is_never_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.py", tmp_path / "mark"
    path.write_text(f"open({str(mark)!r}, 'w').close()\n")
    review(path)
    assert not mark.exists()


@settings(max_examples=150)
@given(st.text(max_size=400))
@example("(" * 5000)
@example("f(" + "-" * 4000 + "1)")
@example("\x00")
@example("x = " + "9" * 5000)
def test_any_text_is_answered(text: str) -> None:
    try:
        review_script(text)
    except RecipeError as error:
        assert error.key in ("advice.not_python", "advice.script_too_long")


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("meta-llama/Meta-Llama-3-8B", "Meta Llama 3 Community License"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama 3.1 Community License"),
        ("meta-llama/Llama-3.3-70B-Instruct", "Llama 3.3 Community License"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "Llama 3.3 Community License"),
        ("Qwen/Qwen2-72B-Instruct", "Tongyi Qianwen License"),
        ("Qwen/Qwen2-7B", "Apache-2.0"),
        ("models/Qwen2.5-3B-Instruct/", "Qwen Research License"),
        ("Qwen/Qwen2.5-Coder-3B", "Qwen Research License"),
        ("mistralai/Codestral-22B-v0.1", "Mistral AI Non-Production License"),
    ],
)
def test_the_same_shape_is_not_the_same_licence(name: str, licence: str) -> None:
    found = bases.find(name)
    assert found is not None and found.licence.name == licence
