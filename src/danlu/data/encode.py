"""Samples to Tokens: render, encode, and fit into the context without losing anything unseen.

An answer's end is never cut: what is too long is dropped, split at turns, or loses the oldest of its prompt, by the
recipe's `over_length`, and the ledger says which row and how many tokens. Kinds are encoded, methods are not known
here: a Conversation has its assistant's turns learnt, a Document every token, a Preference two continuations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np

from danlu.core.errors import TemplateError
from danlu.data.chunk import chunk
from danlu.data.identity import sample_id
from danlu.data.ledger import Ledger
from danlu.data.marks import NONCHARACTERS
from danlu.data.rendered import Rendered, Thinking, TrainOn
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Preference, Sample, replace
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.data.tokens import Item, Tokens

OverLength = Literal["drop", "split", "truncate-prompt"]
LABEL_PROMPT = "{text}\n\n分类 / label:"
_BATCH = 256


class TooLongError(Exception):
    """A conversation that no policy makes fit; `num_tokens` is its length. Stays inside this file."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(num_tokens)
        self.num_tokens = num_tokens


class Encoder:
    """`context` is in tokens, the same number for every kind; None: no limit."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template | None,
        context: int | None = None,
        over_length: OverLength = "drop",
        train_on: TrainOn = "assistant",
        thinking: Thinking | None = None,
        *,
        label_prompt: str = LABEL_PROMPT,
    ) -> None:
        """`template` may be None where only Documents are encoded."""
        self.tokenizer, self._template, self.context = tokenizer, template, context
        self.over_length, self.train_on, self.label_prompt = over_length, train_on, label_prompt
        self.thinking: Thinking = thinking or (template.thinking if template else "keep")
        self.stop_ids = template.stop_ids if template else tokenizer.eos_ids

    @property
    def template(self) -> Template:
        if self._template is None:
            raise TemplateError("template.none_for_chat")
        return self._template

    # What training reads

    def items(self, samples: Iterable[Sample], ledger: Ledger) -> Iterator[Item]:
        """Samples, in order, as a dataset's items: one Tokens each, or a preference's two. Documents go in batches."""
        stream = iter(samples)
        while batch := list(islice(stream, _BATCH)):
            documents = [sample for sample in batch if isinstance(sample, Document)]
            texts = iter(self.tokenizer.encode_texts([sample.text for sample in documents]))
            for sample in batch:
                if isinstance(sample, Document):
                    found = self._document(sample, next(texts), ledger)
                else:
                    found = self.encode(sample, ledger)
                if isinstance(sample, Preference):
                    if found:
                        yield Item(tuple(found), str(sample.origin), sample.group, sample_id(sample))
                elif found:
                    name = sample_id(sample)
                    for tokens in found:
                        yield Item((tokens,), str(sample.origin), sample.group, name)

    def encode(self, sample: Sample, ledger: Ledger) -> list[Tokens]:
        """One sample's Tokens: a Preference gives (chosen, rejected), others one or, where split, several.

        Empty when the row was refused; the ledger has the reason.
        """
        if isinstance(sample, Document):
            return self._document(sample, self.tokenizer.encode_text(sample.text), ledger)
        if NONCHARACTERS.search("".join(message.content for message in _messages_of(sample))):
            ledger.change(sample.origin.file, sample.origin.line, "encode_noncharacter")
        try:
            if isinstance(sample, Preference):
                return self._preference(sample, ledger)
            if isinstance(sample, Label):
                sample = self.conversation(sample)
            if isinstance(sample, Feedback):
                if not sample.desirable:
                    self._refuse(sample, ledger, "encode_undesirable")
                    return []
                sample = Conversation(sample.messages, sample.origin, sample.tools, sample.group)
            return self._conversation(sample, ledger)
        except TemplateError as error:
            self._refuse(sample, ledger, "encode_template", problem=error.text)
            return []

    def conversation(self, label: Label) -> Conversation:
        """How a label is asked for: the text in a short neutral prompt; the answer is the label, nothing else."""
        messages = (Message("user", self.label_prompt.replace("{text}", label.text)), Message("assistant", label.label))
        return Conversation(messages, label.origin, group=label.group, tags=label.tags)

    # What engines use

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """ids up to where the model has to speak. Training's ids of the answer begin with exactly these."""
        ids: list[int] = self.render_prompt(messages, tools).tokens(self.tokenizer).ids.tolist()
        return ids

    def render_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> Rendered:
        """The same before it is read."""
        return self.template.render(messages, tools, add_generation_prompt=True, thinking=self.thinking)

    def answer_text(self, ids: Sequence[int]) -> str:
        """Generated ids as text: up to the first stop token, without control tokens and surrounding space."""
        kept = []
        for token in ids:
            if token in self.stop_ids:
                break
            kept.append(int(token))
        return self.tokenizer.decode(kept, skip_control=True).strip()

    def read_back(self, ids: Sequence[int], *, learnt: bool) -> str:
        """Encoded ids as text with control tokens shown; all are `learnt`, or none is."""
        return self.tokenizer.decode(ids, skip_control=False)

    # Conversations

    def _conversation(self, sample: Conversation, ledger: Ledger) -> list[Tokens]:
        found = self._render_all(sample.messages, sample.tools, ledger)
        total = max((len(tokens) for tokens in found), default=0)
        if found and self.context is not None and total > self.context:
            found = self._fit(sample, total, ledger)
            if not found:
                return []
        found = [tokens for tokens in found if tokens.num_supervised]
        if not found:
            ledger.counts["fully_masked"] += 1
            self._refuse(sample, ledger, "encode_fully_masked")
        for tokens in found:
            self._count(tokens, ledger)
        return found

    def _render_all(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], ledger: Ledger) -> list[Tokens]:
        """The conversation, and apart from it each turn that only stands right after a prompt of its own.

        Qwen3's template, for one, removes earlier turns' thinking once the conversation goes on: such a turn, learnt
        from the whole text, would teach an answer without the thought that inference always has first.
        """
        rendered = self.template.render(messages, tools, thinking=self.thinking, train_on=self.train_on)
        texts = [rendered] if rendered.is_learnt or not rendered.alone else []
        for index in rendered.alone:
            texts.append(self.template.render_turn(messages, index, tools, self.thinking))
        ledger.counts["turns_alone"] += len(rendered.alone)
        return [self._closed(text) for text in texts]

    def _closed(self, rendered: Rendered) -> Tokens:
        """With EOS after the last answer where the template has no end-of-turn token, else the model never stops."""
        tokens = rendered.tokens(self.tokenizer)
        eos = self.tokenizer.eos_id
        if self.template.end_of_turn is not None or eos is None or not len(tokens) or not tokens.weights[-1]:
            return tokens
        if int(tokens.ids[-1]) in self.stop_ids:
            return tokens
        return Tokens(np.append(tokens.ids, np.int32(eos)), np.append(tokens.weights, np.uint8(1)))

    def _fit(self, sample: Conversation, total: int, ledger: Ledger) -> list[Tokens]:
        assert self.context is not None, "fitting needs a limit"
        file, line = sample.origin.file, sample.origin.line
        if self.over_length == "split":
            parts, num_left_out = self._split(sample, ledger)
            kept = sum(map(len, parts))
            if parts:
                ledger.counts["cut"] += max(total - kept, 0)
                ledger.change(
                    file,
                    line,
                    "encode_split",
                    tokens=total,
                    parts=len(parts),
                    left_out=num_left_out,
                    context=self.context,
                )
            else:
                self._refuse(sample, ledger, "encode_over_length", tokens=total, context=self.context)
            return parts
        if self.over_length == "truncate-prompt":
            try:
                messages = self._truncated(sample.messages, sample.tools)
            except TooLongError as error:
                self._refuse(sample, ledger, "encode_answer_over_length", tokens=error.num_tokens, context=self.context)
                return []
            found = self._render_all(messages, sample.tools, ledger)
            kept = max(map(len, found))
            lost = sum(map(_is_answer, sample.messages)) - sum(map(_is_answer, messages))
            ledger.counts["cut"] += total - kept
            ledger.change(file, line, "encode_prompt_cut", tokens=total, kept=kept, context=self.context, answers=lost)
            return found
        self._refuse(sample, ledger, "encode_over_length", tokens=total, context=self.context)
        return []

    def _split(self, sample: Conversation, ledger: Ledger) -> tuple[list[Tokens], int]:
        """Runs of whole exchanges, as many as fit, each under the same system prompt; how many were too long alone."""
        head, exchanges = _exchanges(sample.messages)
        parts: list[Tokens] = []
        run: list[Message] = []
        last: list[Tokens] = []
        num_left_out = 0
        for exchange in exchanges:
            grown = self._render_all([*head, *run, *exchange], sample.tools, ledger)
            if self._fits(grown):
                run, last = [*run, *exchange], grown
                continue
            parts += last
            alone = self._render_all([*head, *exchange], sample.tools, ledger) if run else grown
            is_short = self._fits(alone)
            run, last = ([*exchange], alone) if is_short else ([], [])
            num_left_out += not is_short
        return [tokens for tokens in [*parts, *last] if tokens.num_supervised], num_left_out

    def _fits(self, found: Sequence[Tokens]) -> bool:
        return self.context is None or all(len(tokens) <= self.context for tokens in found)

    def _truncated(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
        """Without the oldest exchanges, then without the beginning of the last question, until it fits."""
        silent = Ledger()
        head, exchanges = _exchanges(messages)
        while len(exchanges) > 1:
            flat = [*head, *(message for exchange in exchanges for message in exchange)]
            if self._fits(self._render_all(flat, tools, silent)):
                return flat
            exchanges = exchanges[1:]
        last = exchanges[0] if exchanges else []
        asked = next((index for index, message in enumerate(last) if message.role == "user"), None)

        def shortened(num_kept: int) -> list[Message]:
            if asked is None:
                return [*head, *last]
            content = last[asked].content
            question = replace(last[asked], content=content[len(content) - num_kept :])
            return [*head, *last[:asked], question, *last[asked + 1 :]]

        least = self._render_all(shortened(0), tools, silent)
        if asked is None or not self._fits(least):
            raise TooLongError(max(map(len, least), default=0))
        low, high = 0, len(last[asked].content)  # most characters of the question's end that fit, by halving
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(self._render_all(shortened(middle), tools, silent)):
                low = middle
            else:
                high = middle - 1
        return shortened(low)

    # Other kinds

    def _preference(self, sample: Preference, ledger: Ledger) -> list[Tokens]:
        file, line = sample.origin.file, sample.origin.line
        prompt = [replace(message, train=False) for message in sample.prompt]
        pair = [self._continued(prompt, answer, sample) for answer in (sample.chosen, sample.rejected)]
        if any(not tokens.num_supervised for tokens in pair):
            ledger.counts["fully_masked"] += 1
            self._refuse(sample, ledger, "encode_fully_masked")
            return []
        if not self._fits(pair):
            longest = max(map(len, pair))
            if self.over_length != "truncate-prompt":
                self._refuse(sample, ledger, "encode_over_length", tokens=longest, context=self.context)
                return []
            longer = max(
                (sample.chosen, sample.rejected), key=lambda answer: len(self._continued(prompt, answer, sample))
            )
            try:
                cut = self._truncated([*prompt, *longer], sample.tools)
            except TooLongError as error:
                self._refuse(sample, ledger, "encode_answer_over_length", tokens=error.num_tokens, context=self.context)
                return []
            prompt = cut[: len(cut) - len(longer)]
            pair = [self._continued(prompt, answer, sample) for answer in (sample.chosen, sample.rejected)]
            assert self._fits(pair), "the longer answer fits, so both do"
            kept = max(map(len, pair))
            ledger.counts["cut"] += longest - kept
            lost = sum(map(_is_answer, sample.prompt)) - sum(map(_is_answer, prompt))
            ledger.change(
                file, line, "encode_prompt_cut", tokens=longest, kept=kept, context=self.context, answers=lost
            )
        if not self._same_prompt(prompt, pair, sample):
            self._refuse(sample, ledger, "encode_prompt_differs")
            return []
        for tokens in pair:
            self._count(tokens, ledger)
        return pair

    def _same_prompt(self, prompt: Sequence[Message], pair: Sequence[Tokens], sample: Preference) -> bool:
        """Whether both answers follow exactly what inference would send: else their comparison is about the prompt."""
        ids = self.encode_prompt(prompt, sample.tools)
        return all(np.array_equal(tokens.ids[: len(ids)], ids) for tokens in pair)

    def _continued(self, prompt: Sequence[Message], answer: Sequence[Message], sample: Preference) -> Tokens:
        messages = [*prompt, *answer]
        rendered = self.template.render(messages, sample.tools, thinking=self.thinking)
        if rendered.alone and rendered.alone[-1] == len(messages) - 1:
            rendered = self.template.render_turn(messages, len(messages) - 1, sample.tools, self.thinking)
        return self._closed(rendered)

    def _document(self, sample: Document, ids: list[int], ledger: Ledger) -> list[Tokens]:
        """Every token learnt, EOS at the end; BOS, where the tokenizer has one by habit, before each chunk."""
        start = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
        if NONCHARACTERS.search(sample.text):
            ledger.change(sample.origin.file, sample.origin.line, "encode_noncharacter")
        if not ids:
            self._refuse(sample, ledger, "encode_empty")
            return []
        if self.tokenizer.eos_id is not None:
            ids = [*ids, self.tokenizer.eos_id]
        else:
            ledger.counts["eos_lost"] += 1
        chunks: list[Sequence[int]] = [ids]
        if self.context is not None and len(ids) + len(start) > self.context:
            if self.over_length == "drop":
                self._refuse(sample, ledger, "encode_over_length", tokens=len(ids) + len(start), context=self.context)
                return []
            chunks = chunk(ids, self.context - len(start), self.tokenizer.piece)
            ledger.counts["documents_split"] += 1
        found = []
        for part in chunks:
            array = np.array([*start, *part], dtype=np.int32)
            found.append(Tokens(array, np.ones(len(array), np.uint8)))
        for tokens in found:
            self._count(tokens, ledger, ends=False)
        return found

    # Accounts

    def _count(self, tokens: Tokens, ledger: Ledger, *, ends: bool = True) -> None:
        ledger.counts["tokens"] += len(tokens)
        ledger.counts["supervised_tokens"] += tokens.num_supervised
        bos = self.tokenizer.bos_id
        if bos is not None and len(tokens) > 1 and tokens.ids[0] == bos == tokens.ids[1]:
            ledger.counts["double_bos"] += 1
        if ends:
            learnt = np.flatnonzero(tokens.weights)
            if not len(learnt) or int(tokens.ids[learnt[-1]]) not in self.stop_ids:
                ledger.counts["eos_lost"] += 1

    def _refuse(self, sample: Sample, ledger: Ledger, reason: str, **values: Any) -> None:
        ledger.revoke(sample.origin.file, sample.origin.line, reason, **values)


def _is_answer(message: Message) -> bool:
    return message.role == "assistant"


def _messages_of(sample: Sample) -> tuple[Message, ...]:
    if isinstance(sample, Preference):
        return sample.prompt + sample.chosen + sample.rejected
    if isinstance(sample, Label):
        return (Message("user", sample.text),)
    assert not isinstance(sample, Document), "documents have no turns"
    return sample.messages


def _exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Leading system turns, and the rest in groups that each begin where a user follows someone else."""
    head = [message for message in messages[:1] if message.role == "system"]
    groups: list[list[Message]] = []
    previous = ""
    for message in messages[len(head) :]:
        if not groups or (message.role == "user" and previous != "user"):
            groups.append([])
        groups[-1].append(message)
        previous = message.role
    return head, groups
