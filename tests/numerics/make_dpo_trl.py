"""Records what TRL's DPOTrainer computes, so that `test_dpo_trl.py` can hold our DPO to it. Not a test.

TRL is not a dependency; this runs in a virtual environment of its own, in half a minute on a CPU:

    pip install "torch==2.13.*" "trl==1.16.*" peft transformers
    python tests/numerics/make_dpo_trl.py

Everything on the way is TRL's own: it tokenises the pairs, builds ids and masks (`DataCollatorForPreference`), runs the
models, and `DPOTrainer.compute_loss` gives loss and metrics, of the batch and of each pair in a batch of its own. Two
subjects: a policy beside a separate reference model, and a LoRA adapter whose reference is the model without it.

Two loss types. `sigmoid` is equation 7 and takes no notice of `label_smoothing`. The smoothed loss (cDPO) TRL computes
under `aot_unpaired`, which first sorts the log-ratios within the batch; in a batch of one pair there is nothing to sort,
so these cases are recorded pair by pair. `robust` is another loss (smoothing with a minus, divided by 1 - 2ε).

The weights are no part of the record: both sides draw them from numpy's RandomState, whose stream numpy keeps fixed, and
compare their SHA-256. The models are fp64; transformers' norms and rotations pass through fp32, and TRL's own head gives
log-probabilities in fp32, from which it computes loss and rewards in fp32.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FIXTURE = Path(__file__).parent / "fixtures" / "dpo_trl.json"
CONFIG: dict[str, Any] = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 512, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "hidden_act": "silu", "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
SEEDS = {"reference": 7, "policy": 8, "adapter": 9}
LORA = {"rank": 4, "alpha": 8}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PAIRS = [  # token ids of prompt, chosen, rejected; TRL adds the end token (1) to both answers
    ([11, 402, 37], [5, 6, 300, 21], [450, 8]),
    ([99], [17], [210, 211, 212, 213, 9, 44, 3]),
    ([60, 61, 62, 63, 64, 65, 66, 67, 68], [301, 302, 303], [301, 302, 304]),
    ([500, 12, 13, 450, 77], [4, 4, 4, 4, 4, 4, 4, 88, 89, 90], [31]),
]
CASES = [
    *(("sigmoid", beta, smoothing) for beta in (0.1, 0.3) for smoothing in (0.0, 0.1)),
    *(("aot_unpaired", beta, 0.1) for beta in (0.1, 0.3)),
]

Weights = dict[str, torch.Tensor]


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int, size: float) -> Weights:
    """Uniform in ±size, in fp32, by sorted name."""
    stream = np.random.RandomState(seed)
    return {
        name: torch.from_numpy(((stream.random_sample(shapes[name]) * 2 - 1) * size).astype(np.float32))
        for name in sorted(shapes)
    }


def reference_weights(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Of the reference model; norms lie around 1."""
    return {name: tensor + ("norm" in name) for name, tensor in drawn(shapes, SEEDS["reference"], 0.25).items()}


def policy_weights(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Of the policy: the reference model, moved a little everywhere."""
    moves = drawn(shapes, SEEDS["policy"], 0.03)
    return {name: tensor + moves[name] for name, tensor in reference_weights(shapes).items()}


def adapter_weights(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Of an adapter, named `model.layers.0.self_attn.q_proj.lora_A`, A [rank, in], B [out, rank]."""
    return drawn(shapes, SEEDS["adapter"], 0.12)


def digest(weights: Weights) -> str:
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode() + weights[name].numpy().tobytes())
    return total.hexdigest()


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


# ---- TRL's side; imported here only, for the tests import this file without TRL


def build(kind: str) -> tuple[Any, str]:
    from transformers import AutoModelForCausalLM, Qwen2Config

    model = AutoModelForCausalLM.from_config(Qwen2Config(**CONFIG), dtype=torch.float32)
    weights = (policy_weights if kind == "policy" else reference_weights)(shapes_of(model))
    model.load_state_dict(weights)
    return model.double().eval(), digest(weights)


def tokenizer() -> Any:
    """Word `w5` is token 5."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, CONFIG["vocab_size"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def text(ids: list[int]) -> str:
    return "".join(f" w{i}" for i in ids)


def make_trainer(subject: str, loss_type: str, beta: float, smoothing: float) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": text(p), "chosen": text(c), "rejected": text(r)} for p, c, r in PAIRS]
    args = DPOConfig(
        output_dir=tempfile.mkdtemp(), loss_type=[loss_type], beta=beta, label_smoothing=smoothing, max_length=None,
        use_cpu=True, bf16=False, report_to=[], per_device_train_batch_size=len(PAIRS), gradient_checkpointing=False,
    )  # fmt: skip
    lora = LoraConfig(
        r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=list(TARGETS), lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    trainer = DPOTrainer(
        model=build("reference" if subject == "adapter" else "policy")[0],
        ref_model=None if subject == "adapter" else build("reference")[0],
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        peft_config=lora if subject == "adapter" else None,
    )
    if subject == "adapter":
        fill_adapter(trainer.model)
    return trainer


def fill_adapter(model: Any) -> str:
    """Give PEFT's pairs their numbers, by the names that we use; their digest."""
    parameters = {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }
    weights = adapter_weights({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])
    return digest(weights)


METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)


def computed(trainer: Any, rows: list[int]) -> dict[str, float]:
    """TRL's loss and metrics (means over pairs) of one batch of these pairs."""
    trainer.model.eval()
    trainer._metrics["eval"].clear()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch)
    return {"loss": float(loss)} | {name: trainer._metrics["eval"][name][0] for name in METRICS}


def gradients(trainer: Any) -> dict[str, float]:
    """Euclidean norm of the batch's gradient, per parameter."""
    trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset))).backward()
    return {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): float(parameter.grad.norm())
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad
    }


def record(subject: str) -> dict[str, Any]:
    trainer = make_trainer(subject, "sigmoid", 0.1, 0.0)
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        policy = trainer.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], fused_lm_head=True,
            labels=batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100),
        ).log_probs.sum(dim=1).chunk(2)  # fmt: skip
        reference = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
    names = ("chosen", "rejected", "reference_chosen", "reference_rejected")
    cases = []
    for loss_type, beta, smoothing in CASES:
        one = make_trainer(subject, loss_type, beta, smoothing)
        case = {"loss_type": loss_type, "beta": beta, "label_smoothing": smoothing}
        whole = {} if loss_type == "aot_unpaired" else {"batch": computed(one, list(range(len(PAIRS))))}
        alone = [computed(one, [row]) for row in range(len(PAIRS))]
        cases.append(case | whole | {"pairs": {name: [values[name] for values in alone] for name in alone[0]}})
    return {
        "ids": {name: batch[name].tolist() for name in ("input_ids", "attention_mask", "completion_mask")},
        "log_probs": {name: values.tolist() for name, values in zip(names, (*policy, *reference), strict=True)},
        "cases": cases,
        "gradient_norms": gradients(make_trainer(subject, "sigmoid", 0.3, 0.0)),
    }


def main() -> None:
    import datasets
    import peft
    import transformers
    import trl

    datasets.disable_progress_bars()
    fixture = {
        "made_by": "tests/numerics/make_dpo_trl.py",
        "versions": {
            "trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "peft": peft.__version__, "numpy": np.__version__,
        },
        "config": CONFIG, "seeds": SEEDS, "lora": LORA,
        "sha256": {
            "policy": build("policy")[1], "reference": build("reference")[1],
            "adapter": fill_adapter(make_trainer("adapter", "sigmoid", 0.1, 0.0).model),
        },
        "subjects": {subject: record(subject) for subject in ("two models", "adapter")},
    }  # fmt: skip
    FIXTURE.parent.mkdir(exist_ok=True)
    lines = json.dumps(fixture, indent=1)
    rows = re.sub(r"\[[^\[\]{}]*\]", lambda row: re.sub(r"\s+", " ", row[0]), lines)  # a list of numbers is one line
    FIXTURE.write_text(rows + "\n")


if __name__ == "__main__":
    main()
