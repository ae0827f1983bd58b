"""The chat template: messages to text, with every control token known and every learnt character marked.

The text is byte for byte what `transformers` renders (`sandbox.py` is its dialect). Which characters are the
assistant's is read from `{% generation %}` where a template has it, else from the difference between the prompt that
inference would send and the same conversation with the answer. Which template: the checkpoint's own, or one from the
shelf `templates/`. Ids are made in `rendered.py`; what must stay equal from training to serving is in `contract.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from danlu.core.errors import TemplateError
from danlu.core.messages import listed
from danlu.data.contract import Contract, make_contract
from danlu.data.marks import CLOSE, ESCAPE, HEAD, OPEN, TAIL, without_noncharacters
from danlu.data.rendered import Piece, Rendered, Span, Thinking, TrainOn, cut
from danlu.data.sample import Message, replace
from danlu.data.sandbox import Sandbox
from danlu.data.template_files import own_texts
from danlu.data.templates import TEMPLATES
from danlu.data.tokenizer import Tokenizer

_THINK, _END_THINK = "<think>", "</think>"
_TRACE = re.compile(r"\s*<think>(.*?)</think>\n*", re.DOTALL)
_PROBE = "k7Qz"


class Template:
    """A checkpoint's chat template with its habits: how it takes a system prompt, reasoning, and ends a turn."""

    def __init__(
        self,
        texts: dict[str, str],
        tokenizer: Tokenizer,
        *,
        source: str = "",
        system: str | None = None,
        thinking: Thinking = "keep",
    ) -> None:
        """`texts`: `default`, and `tool_use` where tools have a template of their own."""
        self.texts, self.source, self.system, self.thinking = texts, source, system, thinking
        self._special = {
            name: value for name, value in tokenizer.special_tokens.items() if isinstance(value, str | list)
        }
        self._sandbox = Sandbox()
        self._compiled = {name: self._sandbox.compile_text(text, where=source) for name, text in texts.items()}
        self._marks = tokenizer.marks
        self._any_mark = _literals(self._marks)
        own = "".join(texts.values())
        special = tokenizer.control_tokens
        structural = [mark for mark in self._marks if mark in special or mark in own]
        self._foreign = _literals([*structural, _THINK, _END_THINK] if _THINK in own else structural)
        self._answer_foreign = _literals([*special, _THINK, _END_THINK])
        self._shown: set[str] = set()
        self.takes_system = True
        self.takes_system = self._tells([Message("system", _PROBE), Message("user", "q")])
        self.shows_reasoning: Literal["field", "content", "no"] = "field"
        """Where a turn's reasoning goes: a field of its own, the content, or nowhere (the template drops it)."""
        for place in ("field", "content", "no"):
            self.shows_reasoning = place
            if self._tells([Message("user", "q"), Message("assistant", "a", reasoning=_PROBE)]):
                break
        self.end_of_turn = self._find_end_of_turn()
        """The control token that closes an assistant's turn, or None: then EOS is appended to the last one."""
        stops = set(tokenizer.eos_ids)
        if self.end_of_turn is not None:
            stops.add(self._marks[self.end_of_turn])
        self.stop_ids: frozenset[int] = frozenset(stops)
        self._stops = _literals([mark for mark, token in self._marks.items() if token in stops])

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: Tokenizer,
        override: str | None = None,
        *,
        system: str | None = None,
        thinking: Thinking = "keep",
    ) -> Template:
        """The template of a checkpoint's folder, or the one named by `override` from the shelf.

        `system` is put before conversations that have no system prompt. TemplateError when there is no template.
        """
        if override is not None:
            text = TEMPLATES.load(override, where="model.template")
            template = cls({"default": text}, tokenizer, source=override, system=system, thinking=thinking)
            if template.end_of_turn is None:
                raise TemplateError("template.lacks_tokens", where="model.template", given=override, folder=folder)
            return template
        texts, source = own_texts(Path(folder))
        if not texts:
            raise TemplateError("template.none", where=str(folder), known=listed(TEMPLATES.names()))
        return cls(texts, tokenizer, source=source, system=system, thinking=thinking)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        add_generation_prompt: bool = False,
        thinking: Thinking | None = None,
        *,
        train_on: TrainOn = "assistant",
    ) -> Rendered:
        """The conversation's text with the learnt characters marked. TemplateError when the template refuses it."""
        chat = self._chat(messages, tools, thinking)
        text, generated = chat.write(len(chat.turns), add_generation_prompt)
        self._check_tools(messages, tools)
        answers = [index for index, turn in enumerate(chat.turns) if turn["role"] == "assistant"]
        wanted = chat.wanted(train_on)
        spans: list[Span] = []
        alone: list[int] = []
        if generated and len(generated) == len(answers):
            for index, (start, end) in zip(answers, generated, strict=True):
                spans.append(Span(start, self._after_stop(text, end), index in wanted))
        else:
            for index in answers:
                prompt, answer = chat.turn(index)
                if text.startswith(prompt + answer):
                    spans.append(Span(len(prompt), len(prompt) + len(answer), index in wanted))
                elif index in wanted:
                    alone.append(chat.places[index])
        for index in sorted(set(chat.overruled) - set(answers)):
            if (index in wanted) == (train_on == "all"):
                continue
            start, end = chat.find(index, text, add_generation_prompt)
            spans.append(Span(start, end, index in wanted, is_answer=False))
        pieces = self._pieces(text, spans, chat.thinking, default=train_on == "all")
        return Rendered(pieces, tuple(alone))

    def render_turn(
        self,
        messages: Sequence[Message],
        index: int,
        tools: Sequence[dict[str, Any]] = (),
        thinking: Thinking | None = None,
    ) -> Rendered:
        """The assistant's turn `index` after exactly the prompt that inference would send; only that turn is learnt."""
        chat = self._chat(messages[: index + 1], tools, thinking)
        prompt, answer = chat.turn(len(chat.turns) - 1)
        span = Span(len(prompt), len(prompt) + len(answer), True)
        return Rendered(self._pieces(prompt + answer, [span], chat.thinking, default=False))

    def contract(self, tokenizer: Tokenizer, sampling_defaults: Mapping[str, Any] | None = None) -> Contract:
        """What must stay equal from here to serving."""
        return make_contract(self, tokenizer, sampling_defaults)

    def _chat(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], thinking: Thinking | None) -> _Chat:
        return _Chat(self, messages, tools, thinking or self.thinking)

    def _pieces(self, text: str, spans: Sequence[Span], thinking: Thinking, *, default: bool) -> tuple[Piece, ...]:
        spans = list(spans)
        if thinking == "mask":
            for span in [span for span in spans if span.is_answer and span.train]:
                trace = re.match(r"(?:(?!</think>).)*</think>\s*", text[span.start : span.end], re.DOTALL)
                if trace:
                    spans.append(Span(span.start, span.start + trace.end(), False, is_answer=False))
        controls = [(match.start(), match.end(), self._marks[match.group()]) for match in self._any_mark.finditer(text)]
        return cut(text, spans, controls, default=default)

    def _after_stop(self, text: str, end: int) -> int:
        """An end-of-turn token that follows a `{% generation %}` block belongs to what the model must produce."""
        match = self._stops.match(text, end)
        return match.end() if match else end

    def until_stop(self, answer: str) -> str:
        """Without what a template adds after the end-of-turn token: generation has ended there."""
        matches = list(self._stops.finditer(answer))
        return answer[: matches[-1].end()] if matches else answer

    def write(self, values: dict[str, Any], name: str) -> str:
        """The bare template on bare values; names of special tokens are added."""
        return self._sandbox.render(self._compiled[name], self._special | values)

    def escape(self, text: str, *, is_answer: bool) -> str:
        """Break each control token's literal, so that the tokenizer reads it as text; rendering removes the break."""
        foreign = self._answer_foreign if is_answer else self._foreign
        return foreign.sub(lambda match: match.group()[0] + ESCAPE + match.group()[1:], without_noncharacters(text))

    def _check_tools(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> None:
        """Refuse tools that the template leaves out in silence: of a turn that only calls one, nothing but its end
        would be learnt. Each part is proven once, by its name in place of the given one."""
        parts = {
            "tools": bool(tools),
            "tool_calls": any(message.tool_calls for message in messages),
            "tool": any(message.role == "tool" for message in messages),
        }
        for part in [part for part, occurs in parts.items() if occurs and part not in self._shown]:
            shown_tools = [_renamed(tool) for tool in tools] if part == "tools" else tools
            if not self._tells([_with_probe(message, part) for message in messages], shown_tools):
                raise TemplateError("template.no_tools", part=part)
            self._shown.add(part)

    def _tells(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> bool:
        """Whether the template takes these messages and the probe's word is in its text."""
        try:
            return _PROBE in self._chat(messages, tools, "keep").write(len(messages), False)[0]
        except TemplateError as error:
            if error.key != "template.refused":
                raise
            return False

    def _find_end_of_turn(self) -> str | None:
        chat = self._chat([Message("user", "q"), Message("assistant", _PROBE)], (), "keep")
        text, _ = chat.write(len(chat.turns), False)
        _, _, after = text.rpartition(_PROBE)
        match = self._any_mark.match(after.lstrip())
        return match.group() if match else None


class _Chat:
    """One conversation on its way through a template: turns as dicts, escaped; renders of its beginnings are kept."""

    def __init__(
        self, template: Template, messages: Sequence[Message], tools: Sequence[dict[str, Any]], thinking: Thinking
    ) -> None:
        self._template, self.thinking = template, thinking
        prepared, shift = _with_system(template, list(messages))
        self.places = [index - shift for index in range(len(prepared))]
        """Of each turn, its place in the messages given (-1 for a system prompt that was put before them)."""
        self._messages = [self._without_trace(message) for message in prepared]
        self.turns = [self._turn_dict(message) for message in self._messages]
        self.overruled = [index for index, message in enumerate(prepared) if message.train is not None]
        escape = functools.partial(template.escape, is_answer=False)
        self._values: dict[str, Any] = {"tools": [_mapped(tool, escape) for tool in tools] or None, "documents": None}
        if thinking == "drop":
            self._values["enable_thinking"] = False
        self._name = "tool_use" if tools and "tool_use" in template.texts else "default"
        self._kept: dict[tuple[int, bool], tuple[str, list[tuple[int, int]]]] = {}

    def wanted(self, train_on: TrainOn) -> set[int]:
        answers = [index for index, message in enumerate(self._messages) if message.role == "assistant"]
        chosen = set(answers[-1:] if train_on == "last" else answers)
        if train_on == "all":
            chosen = set(range(len(self._messages)))
        for index in self.overruled:
            (chosen.add if self._messages[index].train else chosen.discard)(index)
        return chosen

    def write(self, num_turns: int, add_generation_prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        """The marked text of the first turns, and where `{% generation %}` blocks lie in it."""
        key = (num_turns, add_generation_prompt)
        if key not in self._kept:
            self._kept[key] = _spans_out(self._write(self.turns[:num_turns], add_generation_prompt))
        return self._kept[key]

    def _write(self, turns: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        values = self._values | {"messages": turns, "add_generation_prompt": add_generation_prompt}
        return self._template.write(values, self._name)

    def turn(self, index: int) -> tuple[str, str]:
        """(prompt, answer): what inference would send before turn `index`, and all that the model must then produce."""
        full, _ = self.write(index + 1, False)
        try:
            prompt, _ = self.write(index, True)
        except TemplateError:  # the assistant speaks first, or after a turn that this template wants answered otherwise
            start, _ = self.find(index, full, False, num_turns=index + 1)
            return full[:start], self._template.until_stop(full[start:])
        reasoning = self._messages[index].reasoning
        is_lost = reasoning is not None and self._template.shows_reasoning == "no"
        if full.startswith(prompt) and not is_lost:
            return prompt, self._template.until_stop(full[len(prompt) :])
        # Inference begins with a thought (DeepSeek-R1) that the finished conversation does not show: written here.
        start, _ = self.find(index, full, False, num_turns=index + 1)
        answer = self._template.until_stop(full[start:])
        is_open = prompt.rstrip().endswith(_THINK)
        if is_open or is_lost:
            thought = self._template.escape(reasoning or "", is_answer=True)
            answer = f"{'' if is_open else _THINK + chr(10)}{thought}\n{_END_THINK}\n\n{answer}"
        return prompt, answer

    def find(
        self, index: int, text: str, add_generation_prompt: bool, *, num_turns: int | None = None
    ) -> tuple[int, int]:
        """Where turn `index`'s content lies in `text`: rendered again with a mark at either end of it.

        A template that trims content trims outside the marks now, so what stands before the first and after the
        last mark is compared with `text` from both sides.
        """
        turns = self.turns[:num_turns]
        turns[index] = turns[index] | {"content": HEAD + turns[index]["content"] + TAIL}
        marked, _ = _spans_out(self._write(turns, add_generation_prompt))
        before, found, rest = marked.partition(HEAD)
        _, ended, after = rest.rpartition(TAIL)
        if not (found and ended and text.startswith(before) and text.endswith(after)):
            raise TemplateError("template.lost_content", role=turns[index]["role"], number=index + 1)
        return len(before), len(text) - len(after)

    def _without_trace(self, message: Message) -> Message:
        """A thinking trace is kept apart from the answer, or removed; one inside the content is moved out first.

        It stays inside, to the letter, where the template would have it there anyway.
        """
        if message.role != "assistant":
            return message
        stays = self._template.shows_reasoning == "content" and self.thinking != "drop"
        if message.reasoning is None and not stays and (match := _TRACE.match(message.content)):
            content = message.content[match.end() :]
            message = replace(message, reasoning=match.group(1).strip("\n"), content=content)
        return replace(message, reasoning=None) if self.thinking == "drop" else message

    def _turn_dict(self, message: Message) -> dict[str, Any]:
        escape = functools.partial(self._template.escape, is_answer=message.role == "assistant")
        turn: dict[str, Any] = {"role": message.role, "content": escape(message.content)}
        if message.role == "assistant" and (match := _TRACE.match(message.content)):  # its own marks are marks
            text, (start, end) = message.content, match.span(1)
            turn["content"] = (
                text[:start] + escape(text[start:end]) + text[end : match.end()] + escape(text[match.end() :])
            )
        if message.reasoning is not None:
            reasoning = escape(message.reasoning)
            if self._template.shows_reasoning == "field":
                turn |= {"reasoning_content": reasoning, "thinking": reasoning}
            elif self._template.shows_reasoning == "content":
                turn["content"] = f"{_THINK}\n{reasoning}\n{_END_THINK}\n\n{turn['content']}"
        if message.name is not None:
            turn["name"] = escape(message.name)
        if message.tool_calls:
            turn["tool_calls"] = [_mapped(call, escape) for call in message.tool_calls]
        if message.tool_call_id is not None:
            turn["tool_call_id"] = escape(message.tool_call_id)
        return turn


def _with_probe(message: Message, part: str) -> Message:
    """The message with the probe's word in its tool calls' names, or as its tool's result."""
    if part == "tool_calls":
        return replace(message, tool_calls=tuple(_renamed(call) for call in message.tool_calls))
    return replace(message, content=_PROBE) if part == message.role else message


def _renamed(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "name": _PROBE}}


def _with_system(template: Template, messages: list[Message]) -> tuple[list[Message], int]:
    """The recipe's system prompt put first where there is none; in the first question where it has no place."""
    shift = 0
    if template.system and (not messages or messages[0].role != "system"):
        messages, shift = [Message("system", template.system), *messages], 1
    if not template.takes_system and len(messages) > 1 and messages[0].role == "system" and messages[1].role == "user":
        opened = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
        messages, shift = [opened, *messages[2:]], shift - 1
    return messages, shift


def _spans_out(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without `{% generation %}` marks, and the spans that they held."""
    if OPEN not in text:
        return text, []
    spans: list[tuple[int, int]] = []
    clean: list[str] = []
    length = 0
    for part in re.split(f"([{OPEN}{CLOSE}])", text):
        if part == OPEN:
            start = length
        elif part == CLOSE:
            spans.append((start, length))
        else:
            clean.append(part)
            length += len(part)
    return "".join(clean), spans


def _literals(contents: Sequence[str] | dict[str, int]) -> re.Pattern[str]:
    """Any of these literals, the longest first, as the tokenizer itself would find them; nothing at all when empty."""
    ordered = sorted(set(contents), key=lambda content: (-len(content), content))
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with each text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
