"""Quality gates on models that have learnt real text: does danlu's fast way learn what the slow way learns?

    python bench/gates/prepare.py CORPUS CONVERSATIONS scratch/gates                 once, where the text lies
    python bench/gates.py --text scratch/gates --out OUT [--steps 300] [--pretrain-steps 300] [--parallel 6]
    python bench/gates.py --text scratch/gates --out OUT --models ember --only NF4,seed      NF4's gates alone
    python bench/gates.py --judge bench/results/gates-h200.json      earlier runs by today's gates, nothing is run

Two bases: ember, and one of 100 M parameters that is pretrained here first. On each: 300 steps of LoRA by danlu over
three seeds and by transformers + PEFT; the base in fp8, NF4 and int8, and PEFT on weights that were rounded to NF4;
8-bit optimizer states; full fine-tuning with fp32 masters, without, and with masters apart in the machine's memory; the
gradient of the first step against fp32. Writes OUT/gates.json and OUT/gates.html. Runs share the card: this measures
losses, never speed. What this version of danlu cannot do is skipped with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

CONFIG_100M = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 768, "intermediate_size": 2048,
    "num_hidden_layers": 14, "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 12_288,
    "max_position_embeddings": 2048, "rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "tie_word_embeddings": True, "initializer_range": 0.02, "torch_dtype": "bfloat16", "bos_token_id": 12_279,
    "eos_token_id": 12_281, "pad_token_id": 12_279,
}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SEEDS = (0, 1, 2)
WAYS: dict[str, dict[str, Any]] = {
    **{f"danlu, seed {seed}": {"kind": "danlu", "seed": seed} for seed in SEEDS},
    "PEFT, seed 0": {"kind": "peft"},
    "fp8 base": {"kind": "danlu", "quantize": "fp8"},
    "NF4 base": {"kind": "danlu", "quantize": "nf4"},
    "PEFT, weights rounded to NF4": {"kind": "peft", "quantize": "nf4"},
    "int8 base": {"kind": "danlu", "quantize": "int8"},
    "8-bit states": {"kind": "danlu", "optimizer": "adamw_8bit"},
    "full": {"kind": "danlu", "adapter": "full"},
    "full, 8-bit states": {"kind": "danlu", "adapter": "full", "optimizer": "adamw_8bit"},
    "full, no masters, 8-bit states": {
        "kind": "danlu", "adapter": "full", "masters": "none", "optimizer": "adamw_8bit",
    },
    "full, masters apart": {"kind": "danlu", "adapter": "full", "offload": "all"},
    "gradient": {"kind": "gradient"},
}  # fmt: skip


def child(given: str, out: str) -> None:
    """One run; any failure is a result with its reason."""
    from gates.runs import run
    from gates.settings import Spec

    spec = Spec(**json.loads(Path(given).read_text()))
    began = time.monotonic()
    try:
        result = run(spec)
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"[:400]}
    Path(out).write_text(json.dumps(result | {"seconds": round(time.monotonic() - began, 1)}))


class Gates:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.out = given, given.out.resolve()
        self.work = Path(tempfile.mkdtemp(prefix="danlu-gates-"))
        self.pool = ThreadPoolExecutor(given.parallel)
        self.ends = time.monotonic() + given.budget

    def run(self) -> None:
        from gates import judge, page
        from race.machine import about, pretty

        self.out.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {"about": about(sys.argv), "steps": self.given.steps, "models": {}}
        models = self.given.models.split(",")
        raised = self.pool.submit(self._pretrain) if "100m" in models else None
        waiting = {"ember": self._start("ember", "ember")} if "ember" in models else {}
        if raised:
            pretrained = raised.result()
            results["pretrained"] = pretrained
            print(f"pretrained: {told(pretrained)}", flush=True)
            if "error" not in pretrained:
                waiting["100m"] = self._start("100m", str(self.work / "100m"))
        for model, runs in waiting.items():
            found = {name: one.result() for name, one in runs.items()}
            results["models"][model] = {"runs": found, "gates": judge.judge(found)}
            (self.out / "gates.json").write_text(pretty(results))
            print(judge.table(model, results["models"][model]), flush=True)
        (self.out / "gates.html").write_text(page.page_of(results), encoding="utf-8")
        print(self.out / "gates.html")
        shutil.rmtree(self.work)

    def _pretrain(self) -> dict[str, Any]:
        folder = self.work / "pretrain"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG_100M | (TINY if self.given.tiny else {})))
        spec = self._spec("pretrain", "pretrain", str(self.work / "100m"), folder)
        return self._child(replace(spec, num_steps=self.given.pretrain_steps))

    def _start(self, model: str, base: str) -> dict[str, Any]:
        wanted = self.given.only.split(",")
        ways = {name: way for name, way in WAYS.items() if any(part in name for part in wanted)}
        return {name: self.pool.submit(self._way, model, base, name, way) for name, way in ways.items()}

    def _way(self, model: str, base: str, name: str, way: dict[str, Any]) -> dict[str, Any]:
        folder = self.work / f"{model}-{''.join(letter if letter.isalnum() else '-' for letter in name)}"
        folder.mkdir()
        return self._child(replace(self._spec("", name, base, folder), **way))

    def _spec(self, kind: str, name: str, base: str, folder: Path) -> Any:
        from gates.settings import Spec

        given = self.given
        text = str(given.text.resolve())
        return Spec(kind, name, base, text, str(folder), given.device, given.steps, given.step_tokens, given.held_out)

    def _child(self, spec: Any) -> dict[str, Any]:
        left = self.ends - time.monotonic()
        if left < 15:
            return {"error": "left out: the time was up"}
        folder = Path(spec.folder)
        (folder / "spec.json").write_text(json.dumps(asdict(spec)))
        command = [sys.executable, __file__, "child", str(folder / "spec.json"), str(folder / "result.json")]
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": str(self.given.threads)}
        with (self.out / "log.txt").open("ab") as log:
            log.write(f"\n##### {spec.base} {spec.name}\n".encode())
            log.flush()
            try:
                subprocess.run(command, stdout=log, stderr=log, timeout=left, check=False, env=os.environ | quiet)
            except subprocess.TimeoutExpired:
                return {"error": "stopped: the time was up"}
        result = folder / "result.json"
        return json.loads(result.read_text()) if result.is_file() else {"error": "died; see the log"}


def judge_again(file: Path) -> None:
    from gates import judge

    for name, model in json.loads(file.read_text())["models"].items():
        print(judge.table(name, model | {"gates": judge.judge(model["runs"])}))


def told(result: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in result.items() if key != "losses"})


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=Path("scratch/gates"))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gates_out")))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", default="ember,100m")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pretrain-steps", type=int, default=300)
    parser.add_argument("--step-tokens", type=int, default=4096)
    parser.add_argument("--held-out", type=int, default=1000, help="conversations that are held out")
    parser.add_argument("--parallel", type=int, default=6, help="runs beside each other")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each")
    parser.add_argument("--budget", type=float, default=560.0, help="seconds; what no longer fits is left out")
    parser.add_argument("--only", default="", help="only runs with one of these, a,b,c, in their name")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="judge the runs of an earlier gates.json again")
    parser.add_argument("--tiny", action="store_true", help="a tiny model instead of 100 M: a rehearsal")
    given = parser.parse_args()
    if given.judge:
        judge_again(given.judge)
    else:
        Gates(given).run()


if __name__ == "__main__":
    main()
