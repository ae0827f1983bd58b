"""How fast does the native engine write on a card, beside its own reference and transformers' `generate`?

    for shape in qwen2.5-7b qwen2.5-1.5b qwen2.5-0.5b; do       # in turn, into one file
        python bench/decode.py --shapes $shape --out bench/results/decode-h200.json
        python bench/decode.py --shapes $shape --out bench/results/decode-h200.json --peer
    done
    for base in nf4 int8 fp8; do
        python bench/decode.py --shapes qwen2.5-7b --quantize $base --out bench/results/decode-h200.json
    done
    python bench/decode.py --shapes qwen2.5-7b --quantize nf4 --peer --out bench/results/decode-h200.json
    python bench/decode.py --shapes qwen2.5-7b --rows 1 64 --profile profile.txt

Weights are drawn on the device, in bf16 or in codes, so nothing must be there beforehand. A case is a shape and so many
rows at once; each has a prompt of 256 drawn tokens and writes on without an end.

`decode`: the likeliest tokens, after the first 24 steps (kernels compiled, steps recorded); a step is all that
`Decoding.step` does, the host's books included, and the clock stops when the tokens are on the host. `drawn`: the same
at temperature 1, or with settings that a model's makers recommend (0.7, top-p 0.8, top-k 20). `adapter`: a LoRA of rank
16 on all projections, beside the base. `reference`: `plain.py`, the model as it is. `prefill`: 16 prompts of 1,024
tokens. `evaluate`: 1,024 questions of 40 to 300 tokens with answers of 8 to 128, from the first call to the last
answer, on an engine that is made for it, compiling apart.

transformers gets ready ids and computes greedily with its static cache, compiled, and with its dynamic one; the best
counts. Compiling is outside its clock (a call with as many tokens goes before). With `--quantize nf4` its linear layers
are bitsandbytes'.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent))
from shape_run import config_of
from step import draw

from danlu.adapters.lora import LoRA
from danlu.engines.cuda_rows import OnCard, card_for, fits_card, most_places
from danlu.engines.decoding import Decoding
from danlu.engines.engine import Sampling
from danlu.engines.lenses import Lens, attached_lens
from danlu.engines.native import CARD_REFILL_SHARE
from danlu.engines.plain import Plain
from danlu.engines.rows import Forward, Row
from danlu.engines.sampling import draws
from danlu.model.decoder import Decoder
from danlu.model.quantized import quantized_layers

PROMPT, WARM, STEPS = 256, 24, 96
SHAPES = ("qwen2.5-7b", "qwen2.5-1.5b", "qwen2.5-0.5b")


def rows_of(num: int, *, prompt: int = PROMPT, free: int = 1_000, sampling: Sampling | None = None) -> list[Row]:
    generator = random.Random(num)
    made = []
    for number in range(num):
        ids = [generator.randrange(1_000, 90_000) for _ in range(prompt)]
        row = Row(number, ids, free, sampling or Sampling(free))
        row.draws = draws(row.sampling, ids, free) if sampling else None
        made.append(row)
    return made


def seated(forward: Forward, rows: list[Row]) -> Decoding:
    """All prompts read."""
    decoding = Decoding(forward, stop_ids=frozenset(), max_rows=len(rows), max_tokens=1 << 40, name="bench")
    decoding.add(rows)
    while decoding.queue or decoding.partial or not decoding.seated:
        decoding.step()
    return decoding


def timed_steps(decoding: Decoding, num_steps: int = STEPS, num_warm: int = WARM) -> float:
    """Seconds a step."""
    for _ in range(num_warm):
        decoding.step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(num_steps):
        decoding.step()
    return (time.perf_counter() - began) / num_steps


def card(model: Decoder, rows: list[Row], *, with_adapter: bool = False) -> OnCard:
    return card_for(model, rows, max_rows=len(rows), with_adapter=with_adapter)


def decode(
    model: Decoder, num: int, *, sampling: Sampling | None = None, lens: Lens | None = None, lens_every: int = 1
) -> dict[str, Any]:
    rows = rows_of(num, free=400, sampling=sampling)
    for row in rows[::lens_every]:
        row.lens = lens
    step_s = timed_steps(seated(card(model, rows), rows))
    return {"rows": num, "ms_a_step": round(1e3 * step_s, 3), "tok_s": round(num / step_s)}


def reference(model: Decoder, num: int) -> dict[str, Any]:
    rows = rows_of(num, free=400)
    plain = Plain(model, num, PROMPT + 400, nullcontext)
    step_s = timed_steps(seated(plain, rows), 24, 8)
    return {"rows": num, "ms_a_step": round(1e3 * step_s, 3), "tok_s": round(num / step_s)}


def prefill(model: Decoder, length: int = 1024, num: int = 16) -> dict[str, Any]:
    found = []
    for _ in range(3):
        rows = rows_of(num, prompt=length, free=4)
        forward = card(model, rows)
        torch.cuda.synchronize()
        began = time.perf_counter()
        seated(forward, rows)
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
        del forward
    return {"prompts": num, "tokens_each": length, "tok_s": round(num * length / min(found))}


def evaluate(model: Decoder, num: int = 1024, max_rows: int = 256) -> dict[str, Any]:
    """Answers end where their allowance does: drawn weights know no end."""
    generator = random.Random(0)
    found: list[dict[str, Any]] = []
    for _ in range(2):
        rows = []
        for number in range(num):
            ids = [generator.randrange(1_000, 90_000) for _ in range(generator.randint(40, 300))]
            free = generator.randint(8, 128)
            rows.append(Row(number, ids, free, Sampling(free)))
        rows.sort(key=lambda row: -row.most_tokens)
        began = time.perf_counter()
        forward = card_for(model, rows, max_rows=max_rows, with_adapter=False)
        decoding = Decoding(
            forward, stop_ids=frozenset(), max_rows=forward.max_rows, max_tokens=forward.max_tokens, name="bench",
            refill=max(1, int(CARD_REFILL_SHARE * forward.max_rows)),
        )  # fmt: skip
        decoding.add(rows)
        for _ in decoding.run():
            pass
        took_s = time.perf_counter() - began
        written = sum(len(row.ids) for row in rows)
        found.append({
            "questions": num, "seats": forward.max_rows, "s": round(took_s, 2),
            "prompt_tokens": sum(len(row.prompt) for row in rows), "answer_tokens": written,
            "tok_s": round(written / took_s), "answers_s": round(num / took_s, 1),
        })  # fmt: skip
        del forward
    return found[-1]


def weights_bytes(model: Decoder) -> int:
    return sum(p.nbytes for p in model.parameters()) + sum(layer.num_bytes for layer in quantized_layers(model))


def adapter_for(name: str) -> Lens:
    model = draw(name, "cuda")
    LoRA(rank=16).attach(model)
    lens = attached_lens(model)
    assert lens is not None
    return lens


def profile(model: Decoder, num: int, path: Path) -> None:
    rows = rows_of(num, free=400)
    decoding = seated(card(model, rows), rows)
    timed_steps(decoding, 4)

    def steps() -> None:
        for _ in range(8):
            decoding.step()

    def read() -> None:
        seated(forward, again)

    again = rows_of(4, prompt=1024, free=4)
    forward = card(model, again)
    for what, work in ((f"{num} rows, 8 steps", steps), ("a prompt pass of 4,096 tokens", read)):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
            began = time.perf_counter()
            work()
            launched = time.perf_counter()
            torch.cuda.synchronize()
            ended = time.perf_counter()
        table = found.key_averages().table(sort_by="cuda_time_total", row_limit=20, max_name_column_width=90)
        told = f"{what}: launched in {1e3 * (launched - began):.1f} ms, done in {1e3 * (ended - began):.1f}"
        with path.open("a") as file:
            file.write(f"{told}\n{table}\n")


def ours(
    names: list[str], sizes: list[int], quantize: str, path: Path | None, write: Callable[[str, dict[str, Any]], None]
) -> None:
    for name in names:
        model = draw(name, "cuda", quantize).eval()
        assert fits_card(model), "a card that has kernels"
        write(name, {"weights_gib": round(weights_bytes(model) / 2**30, 2), "places": most_places(model)})
        for num in sizes:
            write(name, {"case": "decode", **decode(model, num)})
        if path is not None:
            profile(model, sizes[-1], path)
        write(name, {"case": "prefill", **prefill(model)})
        write(name, {"case": "evaluate", **evaluate(model)})
        for num in (n for n in sizes if n in (1, 64)):
            write(name, {"case": "reference", **reference(model, num)})
            write(name, {"case": "drawn", **decode(model, num, sampling=Sampling(400, temperature=1.0))})
            usual = Sampling(400, temperature=0.7, top_p=0.8, top_k=20)
            write(name, {"case": "drawn among 20", **decode(model, num, sampling=usual)})
        lens = adapter_for(name)
        for num in (n for n in sizes if n >= 64 or n == 1):
            write(name, {"case": "adapter", **decode(model, num, lens=lens)})
        for num in (n for n in sizes if n == 64):
            write(name, {"case": "adapter on every second row", **decode(model, num, lens=lens, lens_every=2)})
        del model, lens
        torch.cuda.empty_cache()


def in_nf4(model: torch.nn.Module) -> None:
    """bitsandbytes' layers in place of the blocks' linear ones, as transformers' quantiser puts them there."""
    import bitsandbytes

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, torch.nn.Linear) or name == "lm_head":
            continue
        fresh = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=torch.bfloat16,
            quant_type="nf4", device="meta",
        )  # fmt: skip
        fresh.weight = bitsandbytes.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
        fresh.bias = layer.bias
        fresh.weight = fresh.weight.cuda()
        parent, _, end = name.rpartition(".")
        setattr(model.get_submodule(parent), end, fresh)


def theirs(names: list[str], sizes: list[int], quantize: str, write: Callable[[str, dict[str, Any]], None]) -> None:
    import transformers

    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config_of(name)))
            config = transformers.AutoConfig.from_pretrained(folder)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        torch.set_default_dtype(torch.float32)
        if quantize == "nf4":
            in_nf4(model)
        for num in sizes:
            ids = torch.tensor([row.prompt for row in rows_of(num)], device="cuda")
            for cache in ("dynamic", "static"):
                found = []
                for new in (STEPS + 1, STEPS + 1, 1, STEPS + 1, 1):
                    torch.cuda.synchronize()
                    began = time.perf_counter()
                    with torch.inference_mode():
                        model.generate(
                            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new,
                            min_new_tokens=new, cache_implementation=cache, pad_token_id=0,
                        )  # fmt: skip
                    torch.cuda.synchronize()
                    found.append(time.perf_counter() - began)
                step_s = (found[3] - found[4]) / STEPS
                write(name, {"case": f"transformers {transformers.__version__}, {cache} cache", "rows": num,
                             "ms_a_step": round(1e3 * step_s, 3), "tok_s": round(num / step_s)})  # fmt: skip
        del model
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 64, 256])
    parser.add_argument("--quantize", default="none", help="what the base lies in: none, nf4, int8 or fp8")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--commit", default="", help="of a copy that git knows nothing of")
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    told: dict[str, Any] = {
        "hardware": torch.cuda.get_device_name(), "torch": torch.__version__, "python": platform.python_version(),
        "commit": given.commit or commit.stdout.strip(), "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [], "cases": [],
    }  # fmt: skip
    if given.out is not None and given.out.exists():
        told = json.loads(given.out.read_text())
    asked = "" if given.quantize == "none" else f" --quantize {given.quantize}"
    told["commands"].append(f"bench/decode.py --shapes {' '.join(given.shapes)}{asked}" + " --peer" * given.peer)

    def write(shape: str, case: dict[str, Any]) -> None:
        base = {} if given.quantize == "none" else {"base": given.quantize}
        told["cases"].append({"shape": shape, **base, **case})
        print(json.dumps(told["cases"][-1]), flush=True)
        if given.out is not None:
            given.out.write_text(json.dumps(told, indent=1) + "\n")

    if given.peer:
        theirs(given.shapes, given.rows, given.quantize, write)
    else:
        ours(given.shapes, given.rows, given.quantize, given.profile, write)


if __name__ == "__main__":
    main()
