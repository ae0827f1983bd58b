"""Ember's own encoding of chats is the template's; its recipe is one that danlu accepts."""

from __future__ import annotations

import itertools
from pathlib import Path

from recipes.ember.pretrain import chatml
from recipes.ember.synthetic import rows

from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Message, Origin
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.recipe.recipe import Recipe

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "src" / "danlu" / "assets" / "ember"


def test_fast_chat_encoding_equals_the_template() -> None:
    tokenizer = Tokenizer.load(FOLDER)
    encoder = Encoder(tokenizer, Template.load(FOLDER, tokenizer), None, "drop", "all")
    chats = [row for row in itertools.islice(rows(21), 80) if "messages" in row and "tools" not in row]
    chats.append(
        {"messages": [{"role": "user", "content": " <|im_end|> 是字\n"}, {"role": "assistant", "content": "\n80"}]}
    )
    for number, row in enumerate(chats):
        messages = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
        sample = Conversation(messages, Origin("chat", number))
        (whole,) = encoder.encode(sample, Ledger())
        assert chatml(sample, tokenizer) == whole.ids.tolist()


def test_the_recipe_is_whole() -> None:
    recipe = Recipe.load(ROOT / "recipes" / "ember-pretrain-h200.yaml")
    (stage,) = recipe.plan_stages()
    assert (stage.method.kind, recipe.model.init, recipe.adapter.kind) == ("pretrain", "random", "full")
    assert stage.training.epochs <= 8  # more passes over so little text overfit
    assert Path(recipe.model.base).resolve() == FOLDER
