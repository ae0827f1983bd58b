"""A company so small that a whole run takes seconds: a random two-layer Qwen2 in ember's own tokens, and its files."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

PLACES = ("north", "south", "east", "west", "Lyon", "Oslo", "Kyoto", "Turin", "Bern", "Riga")
THINGS = ("desk", "lamp", "badge", "locker", "printer", "garden", "kitchen", "archive", "bicycle", "parcel")
WORDS_EN = ("How much is the {thing} fee in {place}?", "What does one pay for the {thing} in {place}, please?")
WORDS_ZH = ("{place}的{thing}费用是多少？", "在{place}用{thing}要花多少钱呢？")


def write_tiny_base(folder: Path, *, seed: int = 7) -> Path:
    """Random weights in ember's layout and vocabulary: 2 layers, 64 wide."""
    from danlu.model.build import load_model, save_model

    ember = Path(str(resources.files("danlu.assets"))) / "ember"
    source = folder.with_name(folder.name + "-source")
    source.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(ember / name, source / name)
    config = json.loads((ember / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
               "num_hidden_layers": 2, "torch_dtype": "float32"}  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    model = load_model(source, init="random", seed=seed, dtype="fp32")
    save_model(model, folder)
    for path in source.iterdir():
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return folder


def facts() -> list[dict[str, str]]:
    """100 facts with two wordings each, in English and Chinese; 'group' ties the wordings of one fact together."""
    rows = []
    for i, place in enumerate(PLACES):
        for j, thing in enumerate(THINGS):
            words = WORDS_ZH if (i + j) % 2 else WORDS_EN
            amount = 10 * i + j + 11
            rows.append({"asked": [w.format(thing=thing, place=place) for w in words], "amount": str(amount),
                         "group": f"{place}-{thing}"})  # fmt: skip
    return rows


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_company(folder: Path) -> Path:
    """qa.jsonl (one wording of each fact), test.jsonl (the other), pairs.jsonl, labels.csv, docs/, general.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    told = facts()
    write_rows(folder / "qa.jsonl", [_row(fact, 0) for fact in told])
    write_rows(folder / "test.jsonl", [_row(fact, 1) for fact in told[::4]])
    write_rows(folder / "pairs.jsonl", [_pair(fact, 0) for fact in told[:40]])
    write_rows(folder / "pairs_test.jsonl", [_pair(fact, 1) for fact in told[:40:4]])
    label = [("great " + fact["group"] + " very nice", "good") for fact in told[:30]]
    label += [("awful " + fact["group"] + " broken again", "bad") for fact in told[:30]]
    lines = "".join(f'"{text}",{name}\n' for text, name in label)
    (folder / "labels.csv").write_text("text,label\n" + lines, encoding="utf-8")
    write_rows(
        folder / "general.jsonl",
        [{"text": f"The sun rises in the east on day {n}, and rain falls in spring."} for n in range(8)],
    )
    docs = folder / "docs"
    docs.mkdir(exist_ok=True)
    (docs / "rules.md").write_text(
        "# Rules\n\n" + "\n\n".join(f"The {f['group']} fee is {f['amount']}." for f in told[:40])
    )
    (docs / "费用.txt").write_text(
        "\n\n".join(f"{f['group']} 的费用是 {f['amount']} 元。" for f in told[40:80]), "utf-8"
    )
    write_docx(docs / "notes.docx", [f"Note on {f['group']}: pay {f['amount']} at the door." for f in told[80:]])
    return folder


def _pair(fact: dict, wording: int) -> dict:
    return {"prompt": f"{fact['asked'][wording]} (short, please)", "chosen": f"It is {fact['amount']}.", "rejected": "I do not know at all."}  # fmt: skip


def write_docx(path: Path, paragraphs: list[str]) -> None:
    import docx

    document = docx.Document()
    for text in paragraphs:
        document.add_paragraph(text)
    document.save(str(path))


def _row(fact: dict, wording: int) -> dict:
    return {
        "question": fact["asked"][wording],
        "answer": f"{fact['amount']} yuan",
        "value": fact["amount"],
        "group": fact["group"],
    }


RECIPE = """
name: tiny
model: {{base: {base}, dtype: float32}}
adapter: {{kind: lora, rank: 4}}
data:
  sources: [qa.jsonl]
  split: {{test: 0.1, validation: 0.1}}
training: {{epochs: 2, lr: 0.01, context: 256, batch_tokens: 1024, save_every: 3, patience: 0}}
evaluation: {{tasks: [domain, consistency, forgetting], max_new_tokens: 8, questions: test.jsonl, general: general.jsonl}}
gate: {{min_gain: 0.0, max_forget: 5.0}}
exports: [adapter]
"""


def write_recipe(folder: Path, base: Path, *, name: str = "recipe.yaml", text: str = RECIPE, **changes: str) -> Path:
    path = folder / name
    path.write_text(text.format(base=base, **changes), encoding="utf-8")
    return path
