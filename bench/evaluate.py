"""2,000 questions answered by `ember`: danlu's engine beside transformers' `generate`, on the same cores in one run.

    python bench/evaluate.py --out bench/results/evaluate-2cores.json
    python bench/evaluate.py --num 200 --rows 64 --rounds 1      # a quick look

Both get the same prompts, greedy, at most 128 new tokens, at most so many rows at once.
danlu is asked through its public engine: rendering the questions and reading the answers is inside its clock.
transformers gets ready ids and what its users are told to do: prompts sorted by length and padded on the left, no
gradients, its dynamic cache, and the best of its own settings (dtype, attention kernel), found first on a part of the
questions; the batch limit is the one at which transformers itself is fastest, and others are shown. danlu computes in
the dtype that `auto` finds for this processor and, for likeness, also in transformers' best one.

Both answer 64 questions before any clock runs: what is loaded or compiled once a process is there then (danlu's
compiled loops: 0.7 s, and 8 s the first time on a machine).
The two take turns, half of the questions each time, in alternating order, so that whoever else uses the machine
disturbs both; CPU seconds stand beside the wall clock. Also compared: the answers themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from danlu.data.sample import Message
from danlu.engines.engine import Question, Sampling

MAX_NEW_TOKENS = 128
FILES = ("qa.jsonl", "test.jsonl", "edge.jsonl", "replay.jsonl", "behaviour.jsonl", "validation.jsonl")


def questions(num: int) -> list[str]:
    """The demo company's questions, each once, in the files' order."""
    found: dict[str, None] = {}
    folder = resources.files("danlu.assets") / "company"
    for name in FILES:
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            text = row.get("question") or next(m["content"] for m in row["messages"] if m["role"] == "user")
            found.setdefault(text)
    assert len(found) >= num, f"only {len(found)} questions"
    return list(found)[:num]


class Clock:
    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def __call__(self, work: Callable[[], Any]) -> Any:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        out = work()
        self.wall_s += time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.cpu_s += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return out


class Theirs:
    """transformers on the same weights."""

    def __init__(self, folder: Path, dtype: torch.dtype, attention: str, stop_ids: Sequence[int], pad_id: int) -> None:
        import transformers

        self.name = f"{str(dtype).removeprefix('torch.')}, {attention}"
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention
        ).eval()
        self.stop_ids, self.pad_id = list(stop_ids), pad_id

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Sequence[int]], num_rows: int) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]), reverse=True)
        out: dict[int, list[int]] = {}
        for start in range(0, len(order), num_rows):
            batch = order[start : start + num_rows]
            longest = max(len(prompts[n]) for n in batch)
            ids_BT = torch.full((len(batch), longest), self.pad_id)
            mask_BT = torch.zeros(len(batch), longest, dtype=torch.long)
            for row, n in enumerate(batch):
                ids_BT[row, longest - len(prompts[n]) :] = torch.tensor(prompts[n])
                mask_BT[row, longest - len(prompts[n]) :] = 1
            made = self.model.generate(
                input_ids=ids_BT, attention_mask=mask_BT, do_sample=False, max_new_tokens=MAX_NEW_TOKENS,
                eos_token_id=self.stop_ids, pad_token_id=self.pad_id,
            )  # fmt: skip
            for row, n in enumerate(batch):
                out[n] = self._cut(made[row, longest:].tolist())
        return [out[n] for n in range(len(prompts))]

    def _cut(self, ids: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids) if token in self.stop_ids]
        return ids[: ends[0] + 1] if ends else ids


class Ours:
    def __init__(self, folder: Path, dtype: torch.dtype | str) -> None:
        from danlu.data.encode import Encoder
        from danlu.data.template import Template
        from danlu.data.tokenizer import Tokenizer
        from danlu.engines.native import NativeEngine
        from danlu.model.build import load_model

        tokenizer = Tokenizer.load(folder)
        self.encoder = Encoder(tokenizer, Template.load(folder, tokenizer))
        self.engine = NativeEngine(load_model(folder, dtype=dtype), self.encoder, name="ember")
        self.name = str(self.engine.model.dtype).removeprefix("torch.")
        self.pad_id = tokenizer.pad_id
        self.questions: dict[tuple[int, ...], Question] = {}

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        asked = [Question((Message("user", text),)) for text in texts]
        self.questions = {tuple(self.engine.prompt_ids(question)): question for question in asked}
        return [self.engine.prompt_ids(question) for question in asked]

    def answer(self, prompts: Sequence[Sequence[int]], num_rows: int) -> list[list[int]]:
        self.engine.max_rows = num_rows
        asked = [self.questions[tuple(ids)] for ids in prompts]
        answers = self.engine.generate(asked, Sampling(max_new_tokens=MAX_NEW_TOKENS))
        return [list(answer.ids) for answer in answers]


def tune(folder: Path, ours: Ours, prompts: Sequence[list[int]], rows: Sequence[int]) -> tuple[Theirs, int, list[Any]]:
    """transformers' fastest settings, on a part of the questions drawn evenly."""
    sample = prompts[:: max(1, len(prompts) // 256)]
    tried = []
    best: tuple[float, Theirs, int] | None = None
    for dtype in (torch.float32, torch.bfloat16):
        for attention in ("sdpa", "eager"):
            theirs = Theirs(folder, dtype, attention, sorted(ours.encoder.stop_ids), ours.pad_id)
            theirs.answer(sample[:8], 8)
            for num_rows in rows:
                clock = Clock()
                clock(lambda t=theirs, n=num_rows: t.answer(sample, n))
                tried.append({"settings": theirs.name, "rows": num_rows, "wall_s": round(clock.wall_s, 2),
                              "cpu_s": round(clock.cpu_s, 2)})  # fmt: skip
                print(tried[-1], file=sys.stderr, flush=True)
                if best is None or clock.cpu_s < best[0]:
                    best = (clock.cpu_s, theirs, num_rows)
    assert best is not None
    return best[1], best[2], tried


def race(
    sides: dict[str, Theirs | Ours], prompts: Sequence[list[int]], num_rows: int, rounds: int
) -> tuple[dict[str, Any], dict[str, list[list[int]]]]:
    """Each side answers all questions once a round, in two halves, taking turns."""
    halves = [list(prompts[0::2]), list(prompts[1::2])]
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    made: dict[str, list[list[int]]] = {}
    for number in range(rounds):
        clocks = {name: Clock() for name in sides}
        for half, part in enumerate(halves):
            order = list(sides) if (number + half) % 2 == 0 else list(sides)[::-1]
            for name in order:
                answers = clocks[name](lambda s=sides[name], p=part: s.answer(p, num_rows))
                if number == 0:
                    made.setdefault(name, []).extend(answers)
        for name, clock in clocks.items():
            num_tokens = sum(map(len, made[name]))
            row = {"wall_s": round(clock.wall_s, 2), "cpu_s": round(clock.cpu_s, 2),
                   "questions_per_s": round(len(prompts) / clock.wall_s, 1),
                   "tokens_per_s": round(num_tokens / clock.wall_s, 1),
                   "tokens_per_cpu_s": round(num_tokens / clock.cpu_s, 1)}  # fmt: skip
            times[name].append(row)
            print(f"rows {num_rows} round {number + 1} {name}: {row}", file=sys.stderr, flush=True)
    shown = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} | {"rounds": rows}
        for name, rows in times.items()
    }
    return shown, made


def likeness(one: list[list[int]], other: list[list[int]]) -> dict[str, float]:
    same = sum(a == b for a, b in zip(one, other, strict=True))
    return {
        "same_answers": round(same / len(one), 4),
        "tokens": sum(map(len, one)),
        "other_tokens": sum(map(len, other)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--rows", type=int, nargs="*", default=[32, 64, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    from danlu.model.hub import find_base
    from danlu.version import VERSION

    folder = find_base("ember")
    ours = Ours(folder, "auto")
    prompts = ours.prompts(questions(chosen.num))
    theirs, num_rows, tried = tune(folder, ours, prompts, chosen.rows)
    alike = Ours(folder, theirs.model.dtype)
    sides: dict[str, Theirs | Ours] = {"transformers": theirs, "danlu": ours}
    alike.questions = ours.questions
    if alike.name != ours.name:
        sides["danlu, their dtype"] = alike
    for side in sides.values():
        side.answer(prompts[:64], 64)
    shown, made = race(sides, prompts, num_rows, chosen.rounds)
    ratios = {
        name: {key: round(shown["transformers"][key] / shown[name][key], 2) for key in ("wall_s", "cpu_s")}
        for name in sides if name != "transformers"
    }  # fmt: skip
    lengths = sorted(map(len, made["danlu"]))
    import transformers

    found = {
        "what": f"{len(prompts)} questions, greedy, at most {MAX_NEW_TOKENS} new tokens, {num_rows} rows at once",
        "times_faster": ratios, "sides": shown,
        "settings": {"transformers": theirs.name, "danlu": ours.name, "rows": num_rows, "threads": chosen.threads},
        "answers": {
            "median_tokens": lengths[len(lengths) // 2], "longest": lengths[-1],
            "prompt_tokens": sum(map(len, prompts)),
            "danlu_as_transformers": {n: likeness(made[n], made["transformers"]) for n in sides if n != "transformers"},
        },
        "tuning": tried,
        "versions": {"danlu": VERSION, "torch": torch.__version__, "transformers": transformers.__version__,
                     "python": platform.python_version()},
        "hardware": cpu_name(), "load_average": [round(load, 1) for load in os.getloadavg()],
        "command": "python bench/evaluate.py " + " ".join(sys.argv[1:]),
        "commit": subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} × {len(names)}" if names else platform.processor()


if __name__ == "__main__":
    main()
