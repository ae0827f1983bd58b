"""Modelfile and Go templates: what Go writes is what Jinja writes, for every template of the shelf and well-known ones.

The oracle of the Go text is Go itself: a few lines of Go run the template as Ollama's chat path does. Where there is no
Go, that test is skipped, and the others hold the turns that the text is written from to the Jinja template.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Rust
from tokenizers import models

from danlu.core.errors import ExportError
from danlu.data.contract import Contract, make_contract
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.templates import TEMPLATES
from danlu.data.tokenizer import Tokenizer
from danlu.exports.ollama.gotemplate import write_go
from danlu.exports.ollama.modelfile import refuse_unsaid, write_modelfile
from danlu.exports.ollama.turns import learn

JINJA = Path(__file__).parents[4] / "shared" / "data" / "tokenizers" / "hf_chat_templates"
OTHERS = ("chatml", "gemma-it", "llama-2-chat", "llama-3-instruct", "mistral-instruct", "phi-3", "qwen2.5-instruct",
          "vicuna", "zephyr")  # fmt: skip
SPECIAL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>",
    "<|end|>", "<|endoftext|>",
)  # fmt: skip
ENDS = {"gemma": ("<bos>", "<eos>"), "gemma-it": ("<bos>", "<eos>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
        "llama-3-instruct": ("<|begin_of_text|>", "<|eot_id|>")}  # fmt: skip
WORDS = [
    "出差一天补贴多少?",
    "  spaces\t\n",
    "　全角\u00a0\u2003",
    "{{ .System }} {% if %}",
    'a "quoted" \\ word',
    "é\x7f\u2028x",
]
GO = """package main

import ("bytes"; "encoding/json"; "fmt"; "os"; "text/template")

type Message struct { Role string `json:"role"`; Content string `json:"content"` }
type Job struct { Template string `json:"template"`; Chats [][]Message `json:"chats"` }

func main() {
	var jobs []Job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil { panic(err) }
	out := [][]string{}
	for _, job := range jobs {
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(job.Template))
		texts := []string{}
		for _, chat := range job.Chats {
			messages := []*Message{}
			for at := range chat { messages = append(messages, &chat[at]) }
			var text bytes.Buffer
			if err := parsed.Execute(&text, map[string]any{"System": "", "Messages": messages, "Response": ""}); err != nil { panic(err) }
			texts = append(texts, text.String())
		}
		out = append(out, texts)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(out); err != nil { panic(err) }
	fmt.Print()
}
"""


def speaker(folder: Path, name: str, text: str) -> tuple[Template, Tokenizer, str]:
    """A template over a vocabulary that has everyone's control tokens, and its BOS."""
    folder.mkdir(parents=True, exist_ok=True)
    bos, eos = ENDS.get(name, ("<s>", "</s>"))
    rust = Rust(models.BPE(vocab={chr(n): n for n in range(33, 127)}, merges=[]))
    rust.add_special_tokens(list(SPECIAL))
    rust.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos, "eos_token": eos}))
    tokenizer = Tokenizer.load(folder)
    return Template({"default": text}, tokenizer, source=name), tokenizer, bos


def everyone() -> dict[str, str]:
    found = {name: TEMPLATES.load(name) for name in TEMPLATES.names()}
    return found | {f"their {name}": (JINJA / f"{name}.jinja").read_text() for name in OTHERS if JINJA.is_dir()}


def chats(template: Template) -> list[list[dict[str, str]]]:
    roles = [("user",), ("user", "assistant", "user"), ("user", "assistant", "user", "assistant", "user")]
    roles += [("system", *each) for each in roles] if template.takes_system else []
    return [
        [{"role": role, "content": WORDS[(at + shift) % len(WORDS)]} for at, role in enumerate(each)]
        for each in roles for shift in range(len(WORDS))
    ]  # fmt: skip


def jinja(template: Template, chat: list[dict[str, str]]) -> str:
    messages = [Message(turn["role"], turn["content"]) for turn in chat]  # type: ignore[arg-type]
    return template.render(messages, add_generation_prompt=True).text


@pytest.mark.parametrize("name", everyone())
def test_turns_tell_what_the_template_writes(name: str, tmp_path: Path) -> None:
    template, _, bos = speaker(tmp_path, name.removeprefix("their "), everyone()[name])
    for leave_out in ("", bos):
        turns = learn(template, leave_out=leave_out)
        for chat in chats(template):
            pairs = [(turn["role"], turn["content"]) for turn in chat]
            assert turns.write(pairs) == jinja(template, chat).removeprefix(leave_out)  # type: ignore[arg-type]


@pytest.mark.slow
def test_go_writes_what_jinja_writes(tmp_path: Path) -> None:
    if (go := shutil.which("go")) is None:
        pytest.skip("the oracle is Go, 1.24 or later")
    jobs, expected = [], []
    for name, text in everyone().items():
        template, _, _ = speaker(tmp_path / name, name.removeprefix("their "), text)
        asked = chats(template)
        jobs.append({"template": write_go(learn(template)), "chats": asked})
        expected.append([jinja(template, chat) for chat in asked])
    (tmp_path / "main.go").write_text(GO)
    (tmp_path / "go.mod").write_text("module render\n\ngo 1.24\n")
    ran = subprocess.run([go, "run", "."], cwd=tmp_path, input=json.dumps(jobs), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for name, found, wanted in zip(everyone(), json.loads(ran.stdout), expected, strict=True):
        assert found == wanted, name


LAST = "{% for m in messages %}{% if m.role == 'user' %}{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}[INST]{{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}"


def test_a_template_that_turns_cannot_tell_is_refused_and_says_where(tmp_path: Path) -> None:
    """Newer Mistral templates put the system prompt before the LAST question."""
    template, *_ = speaker(tmp_path, "last", LAST)
    with pytest.raises(ExportError, match="Ollama"):
        learn(template)


def contract_of(template: Template, tokenizer: Tokenizer, **sampling: Any) -> Contract:
    return make_contract(template, tokenizer, sampling)


def test_a_modelfile_leaves_nothing_to_ollamas_habits(tmp_path: Path) -> None:
    template, tokenizer, _ = speaker(tmp_path, "chatml", TEMPLATES.load("chatml"))
    template.system = "你是差旅助手。\nAnswer briefly."
    text = write_modelfile("m-Q8_0.gguf", "T", contract_of(template, tokenizer, temperature=0.7, top_k=20), context=512)
    assert text.startswith("FROM ./m-Q8_0.gguf\n") and 'TEMPLATE """T"""' in text
    assert 'SYSTEM """你是差旅助手。\nAnswer briefly."""' in text
    for line in (
        'stop "<|im_end|>"',
        'stop "</s>"',
        "temperature 0.7",
        "top_p 1",
        "top_k 20",
        "repeat_penalty 1",
        "min_p 0",
        "num_ctx 512",
    ):
        assert f"PARAMETER {line}\n" in text


def test_quotes_that_would_end_a_text_early_are_refused(tmp_path: Path) -> None:
    template, tokenizer, _ = speaker(tmp_path, "chatml", TEMPLATES.load("chatml"))
    template.system = 'say """no"""'
    with pytest.raises(ExportError):
        write_modelfile("m.gguf", "T", contract_of(template, tokenizer), context=512)


def as_ollama_reads(text: str) -> str:
    """Its parser keeps tabs, line ends and what prints; the rest is gone (parser.go, `strconv.IsPrint`)."""
    return "".join(char for char in text if char in "\t\n\r" or char.isprintable())


@pytest.mark.parametrize("name", everyone())
def test_nothing_of_a_template_is_lost_when_ollama_reads_the_modelfile(name: str, tmp_path: Path) -> None:
    """Full-width spaces in the loop that trims were: what it was to cut off stood there as nothing."""
    template, _, _ = speaker(tmp_path, name.removeprefix("their "), everyone()[name])
    text = write_go(learn(template))
    assert as_ollama_reads(text) == text
    if "range len" in text:
        assert "\\u3000" in text and "\\u2028" in text


@pytest.mark.parametrize("text", ["　你是助手。", "a\u00a0b", "family \U0001f468\u200d\U0001f469", "\ufeffx"])
def test_a_system_prompt_that_ollama_would_change_is_refused(text: str) -> None:
    with pytest.raises(ExportError) as caught:
        refuse_unsaid(text, "model.system")
    assert caught.value.key == "ollama.unprintable" and "U+" in caught.value.text
    refuse_unsaid("你是助手。\n\tReply briefly. 😀❤️", "model.system")
