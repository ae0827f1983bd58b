"""A fine-tuning script read before anybody runs it: what in it costs quality, proof or safety, line by line.

Read as text (`ast`), never executed. It knows the calls that tutorials use (transformers, TRL, PEFT, Unsloth, Flask);
what it does not recognise it leaves alone: silence is no praise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from danlu.core.errors import RecipeError
from danlu.planning.advice.words import Reason

FAMILIES = ("qwen", "gemma", "llama", "mistral", "phi", "chatglm", "baichuan", "deepseek", "yi")
LOADERS = ("FastLanguageModel", "FastModel", "AutoModelForCausalLM", "AutoModel", "AutoPeftModelForCausalLM")
TRAINERS = ("SFTTrainer", "Trainer", "Seq2SeqTrainer", "DPOTrainer", "UnslothTrainer")
CONFIGS = ("SFTConfig", "TrainingArguments", "DPOConfig", "Seq2SeqTrainingArguments", "UnslothTrainingArguments")
ANSWERS_ONLY = ("train_on_responses_only", "DataCollatorForCompletionOnlyLM")
FEW_STEPS, LONG_LR, SHORT_LR = 100, 5e-4, 5e-6
MAX_SCRIPT_BYTES = 2**20
_INSTRUCT = re.compile(r"(^|[-_])(it|instruct|chat)([-_.]|$)", re.I)
_FOUR_BIT = re.compile(r"bnb-4bit|4bit|int4|gptq|awq", re.I)


@dataclass(frozen=True, slots=True)
class Finding:
    """`is_fault` marks what makes the result wrong or unsafe; the rest is worth knowing."""

    line: int
    reason: Reason
    is_fault: bool

    def to_json(self) -> dict[str, Any]:
        return {"line": self.line, "is_fault": self.is_fault} | self.reason.to_json()


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    """The called name's last part."""
    owner: str
    """What stands before its last dot, or ""."""
    line: int
    arguments: dict[str, Any]
    """By keyword, and positional ones by their place ("0", "1", …): constants as they are, everything else as None."""

    def has(self, name: str) -> bool:
        return name in self.arguments


def review_script(text: str, name: str = "script.py") -> list[Finding]:
    """What there is to say about a training script, in the order of its lines. RecipeError where it is no Python."""
    if len(text) > MAX_SCRIPT_BYTES:
        raise RecipeError("advice.script_too_long", where=name, given=len(text), limit=MAX_SCRIPT_BYTES)
    try:
        tree = ast.parse(_without_shell(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise RecipeError("advice.not_python", where=f"{name}:{line}", given=str(error)) from error
    script = _Script(text, _calls(tree))
    found = [finding for rule in _RULES for finding in rule(script)]
    return sorted(found, key=lambda finding: (finding.line, finding.reason.code))


class _Script:
    """Calls of a script, and what several rules ask of them."""

    def __init__(self, text: str, calls: list[Call]) -> None:
        self.text, self.lines, self.calls = text, text.splitlines(), calls
        self.loads = [
            call for call in calls
            if call.name == "from_pretrained" and call.owner.rpartition(".")[2] in LOADERS and _base_of(call)
        ]  # fmt: skip
        self.trainers = self.named(*TRAINERS)
        self.configs = self.named(*CONFIGS)

    def named(self, *names: str) -> list[Call]:
        return [call for call in self.calls if call.name in names]

    def line_of(self, word: str) -> int:
        return next((n for n, line in enumerate(self.lines, start=1) if word in line), 1)

    @property
    def first_base(self) -> str:
        return _base_of(self.loads[0]) if self.loads else ""


# ---- reading


def _without_shell(text: str) -> str:
    """Notebooks' `!pip` and `%magic` lines, emptied so that line numbers stay."""
    return "\n".join("" if line.lstrip().startswith(("!", "%")) else line for line in text.split("\n"))


def _calls(tree: ast.AST) -> list[Call]:
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            known.setdefault(node.targets[0].id, _value(node.value, {}))
    calls = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = _dotted(node.func).rpartition(".")
        arguments = {str(at): _value(value, known) for at, value in enumerate(node.args)}
        arguments |= {word.arg: _value(word.value, known) for word in node.keywords if word.arg}
        calls.append(Call(name, owner, node.lineno, arguments))
    return sorted(calls, key=lambda call: call.line)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _value(node: ast.AST, known: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return known.get(node.id, f"${node.id}")  # a name whose value nobody wrote down
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _base_of(call: Call) -> str:
    value = call.arguments.get("model_name", call.arguments.get("pretrained_model_name_or_path"))
    value = call.arguments.get("0") if value is None else value
    return value if isinstance(value, str) and not value.startswith("$") else ""


def _family(text: str) -> str:
    """The family that a name speaks of, "" for none or several."""
    found = {family for family in FAMILIES if re.search(rf"(?<![a-z]){family}(?![a-z])", text.lower())}
    return found.pop() if len(found) == 1 else ""


# ---- rules


def _judging(script: _Script) -> Iterator[Finding]:
    """No question that was not trained on."""
    for trainer in script.trainers:
        held_out = trainer.arguments.get("eval_dataset", None)
        if held_out is None:
            yield Finding(trainer.line, Reason("script_no_evaluation"), True)
        elif held_out == trainer.arguments.get("train_dataset"):
            yield Finding(trainer.line, Reason("script_same_evaluation"), True)


def _whole_text(script: _Script) -> Iterator[Finding]:
    """The loss counts prompts and template too."""
    if script.named(*ANSWERS_ONLY):
        return
    for trainer in script.trainers:
        settings = [trainer, *script.configs]
        learns_text = any(call.has("dataset_text_field") or call.has("formatting_func") for call in settings)
        is_narrowed = any(
            call.arguments.get(name) for call in settings for name in ("assistant_only_loss", "completion_only_loss")
        )
        if trainer.name in ("SFTTrainer", "UnslothTrainer") and learns_text and not is_narrowed:
            yield Finding(trainer.line, Reason("script_whole_text"), True)


def _merged_base(script: _Script) -> Iterator[Finding]:
    """The adapter is merged into weights it was not trained on."""
    merges = script.named("merge_and_unload")
    if not merges or not script.loads:
        return
    trained = script.first_base
    for load in script.loads[1:]:
        other = _base_of(load)
        if _plain(other) != _plain(trained):
            values = {"trained": trained, "merged": other}
            yield Finding(load.line, Reason("script_other_base", values), True)
    last = _base_of(script.loads[-1])
    if len(script.loads) == 1 and (_FOUR_BIT.search(last) or script.loads[-1].arguments.get("load_in_4bit")):
        yield Finding(merges[0].line, Reason("script_merge_4bit", {"trained": last}), True)
    elif _FOUR_BIT.search(trained) or script.loads[0].arguments.get("load_in_4bit"):
        yield Finding(merges[0].line, Reason("script_rounded_base", {"trained": trained}), False)


def _plain(base: str) -> str:
    """Without organisation and rounding: what must be equal of two bases."""
    name = base.rpartition("/")[2].lower()
    return re.sub(r"-(unsloth|bnb|4bit|bf16|fp16)(?=-|$)", "", name)


def _other_family(script: _Script) -> Iterator[Finding]:
    """Words speak of one family, the code loads another."""
    loaded = _family(script.first_base)
    if not loaded:
        return
    said = {_family(line): number for number, line in reversed(list(enumerate(script.lines, start=1))) if _family(line)}
    for family, line in said.items():
        if family != loaded and not any(_family(_base_of(load)) == family for load in script.loads):
            values = {"said": family, "loaded": script.first_base}
            yield Finding(line, Reason("script_other_family", values), True)
    for call in script.named("get_chat_template"):
        template = call.arguments.get("chat_template", call.arguments.get("1"))
        if isinstance(template, str) and (family := _family(template)) and family != loaded:
            values = {"template": template, "loaded": script.first_base}
            yield Finding(call.line, Reason("script_other_template", values), True)


def _few_steps(script: _Script) -> Iterator[Finding]:
    for call in script.configs:
        steps = call.arguments.get("max_steps")
        if isinstance(steps, int) and 0 < steps <= FEW_STEPS:
            yield Finding(call.line, Reason("script_few_steps", {"steps": steps}), False)


def _rate(script: _Script) -> Iterator[Finding]:
    for call in script.configs:
        rate = call.arguments.get("learning_rate")
        if isinstance(rate, int | float) and not SHORT_LR <= rate <= LONG_LR:
            yield Finding(call.line, Reason("script_rate", {"rate": f"{rate:g}"}), True)


def _chance(script: _Script) -> Iterator[Finding]:
    for call in script.configs:
        if not call.has("seed"):
            yield Finding(call.line, Reason("script_no_seed"), False)


def _lost_end(script: _Script) -> Iterator[Finding]:
    """Padding is the end of answers, and padding is not learnt."""
    pattern = re.compile(r"pad_token(_id)?\s*=\s*\w+\.eos_token(_id)?")
    pads = [number for number, line in enumerate(script.lines, start=1) if pattern.search(line)]
    if pads and script.named("DataCollatorForLanguageModeling"):
        yield Finding(pads[0], Reason("script_lost_end"), True)


def _generation(script: _Script) -> Iterator[Finding]:
    """Answers are asked for without the words that open them."""
    generates = script.named("generate")
    templates = [
        call for call in script.named("apply_chat_template") if call.line < max((g.line for g in generates), default=0)
    ]
    if (
        generates
        and templates
        and not any(call.arguments.get("add_generation_prompt") for call in script.named("apply_chat_template"))
    ):
        yield Finding(generates[0].line, Reason("script_no_generation_prompt"), True)
    if generates and not script.named("apply_chat_template", "pipeline"):
        yield Finding(generates[0].line, Reason("script_no_template"), True)


def _cut(script: _Script) -> Iterator[Finding]:
    for call in [*script.loads, *script.trainers, *script.configs]:
        for name in ("max_seq_length", "max_length"):
            length = call.arguments.get(name)
            if isinstance(length, int) and call.name != "generate":
                yield Finding(call.line, Reason("script_cut", {"length": length}), False)
                return


def _foreign_code(script: _Script) -> Iterator[Finding]:
    for call in script.calls:
        if call.arguments.get("trust_remote_code") is True:
            yield Finding(call.line, Reason("script_remote_code"), True)
        if call.arguments.get("safe_serialization") is False:
            yield Finding(call.line, Reason("script_pickle"), True)


def _leaves_the_house(script: _Script) -> Iterator[Finding]:
    for call in script.configs:
        reports = call.arguments.get("report_to", "unsaid")
        if reports in ("wandb", "all", "comet_ml", "neptune"):
            yield Finding(call.line, Reason("script_reports", {"to": reports}), True)
        elif reports == "unsaid":
            yield Finding(call.line, Reason("script_reports_unsaid"), False)
    for call in script.named("push_to_hub", "push_to_hub_merged", "push_to_hub_gguf"):
        if call.arguments.get("private") is not True:
            yield Finding(call.line, Reason("script_public_hub"), True)


def _open_door(script: _Script) -> Iterator[Finding]:
    has_key = re.search(r"api[_-]?key|authorization|bearer", script.text, re.I)
    for call in script.named("run"):
        if call.arguments.get("host") == "0.0.0.0" and not has_key:  # noqa: S104 - what is looked for
            yield Finding(call.line, Reason("script_open_door"), True)
    for call in script.named("run"):
        if call.arguments.get("debug") is True:
            yield Finding(call.line, Reason("script_debug_server"), True)


def _instruct(script: _Script) -> Iterator[Finding]:
    """Continued pretraining on an instruct model, or chat on one that never learnt to."""
    base = script.first_base
    if (
        base
        and not _INSTRUCT.search(base)
        and script.named("apply_chat_template")
        and not script.named("get_chat_template")
    ):
        yield Finding(script.loads[0].line, Reason("script_plain_base", {"base": base}), False)


_RULES = (
    _judging, _whole_text, _merged_base, _other_family, _few_steps, _rate, _chance, _lost_end, _generation, _cut,
    _foreign_code, _leaves_the_house, _open_door, _instruct,
)  # fmt: skip
