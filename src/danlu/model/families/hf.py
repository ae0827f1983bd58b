"""The open door: any other causal LM that transformers knows by itself, behind the same contract, slower.

The flat row is right-padded into a batch for transformers' module; generation keeps one of its caches per row, because
ragged rows in one cache are not something every architecture can mask. Code from the checkpoint never runs.
Not covered: encoder-decoders, heads that are more than a linear layer and a constant factor.

Shapes: T tokens of all documents, N documents (or rows of a head), L longest, B rows, D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from danlu.core.errors import ModelError
from danlu.core.files import replacing_folder, sha256_json
from danlu.model.cache import KVCache
from danlu.model.families.family import Config, Family, value
from danlu.model.model import Model
from danlu.model.shards import digest_folder, find_shards, read_header
from danlu.model.spec import Spec
from danlu.model.weights import copy_beside
from danlu.ops.attention import Bounds
from danlu.ops.rope import RopeSpec

ROWS_PER_CHUNK = 512  # of the head; logits are made again in the backward


def spec(config: Config) -> Spec:
    """What can be said of a foreign shape without knowing it: sizes for plans and reports; the module itself rules."""
    num_layers = value(config, "num_hidden_layers", value(config, "n_layer", 0))
    num_heads = value(config, "num_attention_heads", value(config, "n_head", 1))
    hidden_size = value(config, "hidden_size", value(config, "n_embd", 0))
    head_size = value(config, "head_dim", hidden_size // num_heads)
    return Spec(
        family=str(config["model_type"]),
        vocab_size=value(config, "vocab_size", 0),
        hidden_size=hidden_size,
        ffn_size=value(config, "intermediate_size", value(config, "n_inner", 4 * hidden_size)),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_size=head_size,
        context=value(config, "max_position_embeddings", value(config, "n_positions", 2048)),
        norm_eps=value(config, "layer_norm_eps", 1e-5),
        activation="gelu",
        is_tied=bool(value(config, "tie_word_embeddings", False)),
        ropes=(RopeSpec(head_size, 10_000.0),) * num_layers,
        windows=(None,) * num_layers,
        attention_scale=head_size**-0.5,
    )


FAMILY = Family("hf", spec)


class ForeignCache(KVCache):
    """One transformers cache per row; the tensors of `KVCache` stay empty."""

    def __init__(self, num_rows: int, max_tokens: int, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(0, num_rows, 0, max_tokens, 0, dtype=dtype, device=device)
        self.rows: list[Any] = [None] * num_rows

    def empty(self) -> None:
        super().empty()
        self.rows.clear()

    def adopt(self, other: KVCache) -> None:
        assert isinstance(other, ForeignCache), "a foreign cache adopts from its own kind"
        super().adopt(other)
        self.rows += other.rows

    def drop(self, rows: list[int]) -> list[tuple[int, int]]:
        moves = super().drop(rows)
        for source, target in moves:
            self.rows[target] = self.rows[source]
        del self.rows[self.num_rows :]
        return moves


class ForeignModel(Model):
    """transformers' module behind our contract. Its children are ours too, so parameters keep the module's names."""

    def __init__(self, module: Any, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(spec(config), folder, config)
        for name, child in module.named_children():
            self.add_module(name, child)
        self._module = (module,)  # in a tuple: registered once, through its children
        self._logit_factor = 1.0

    @property
    def module(self) -> Any:
        """transformers' own object, for saving and for those who know it."""
        return self._module[0]

    def train(self, mode: bool = True) -> ForeignModel:
        super().train(mode)
        self.module.training = mode
        return self

    def hidden(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, cache: KVCache | None = None) -> Tensor:
        """Positions are the module's own count from 0; others than that are refused."""
        assert torch.equal(positions_T, bounds.positions(positions_T.device)), "a foreign model counts from 0 itself"
        if cache is not None:
            return self._fill(ids_T, bounds, cache)
        ids_NL = pad_sequence(list(torch.split(ids_T, list(bounds.lengths))), batch_first=True)
        lengths_N = torch.tensor(bounds.lengths, device=ids_T.device)
        mask_NL = torch.arange(bounds.max_length, device=ids_T.device) < lengths_N[:, None]
        out = self.module.base_model(input_ids=ids_NL, attention_mask=mask_NL.long(), use_cache=False)
        hidden_TD: Tensor = out.last_hidden_state[mask_NL]
        return hidden_TD

    def _fill(self, ids_T: Tensor, bounds: Bounds, cache: KVCache) -> Tensor:
        """Each document alone, so that each row's cache holds nothing but its own tokens."""
        assert isinstance(cache, ForeignCache), "a foreign model fills the cache it made"
        assert bounds.num_documents == cache.num_rows and cache.longest == 0, "one document per row, once"
        hiddens = []
        for row, ids_L in enumerate(torch.split(ids_T, list(bounds.lengths))):
            out = self.module.base_model(input_ids=ids_L[None], use_cache=True)
            cache.rows[row] = self._cached(out)
            hiddens.append(out.last_hidden_state[0])
        cache.commit(bounds)
        return torch.cat(hiddens)

    def _cached(self, out: Any) -> Any:
        if out.get("past_key_values") is None:
            raise ModelError("model.no_cache", where=str(self.folder), family=self.spec.family)
        return out.past_key_values

    def step(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        assert isinstance(cache, ForeignCache), "a foreign model steps on the cache it made"
        assert cache.longest < cache.max_tokens, f"the cache's {cache.max_tokens} places are full"
        hiddens = []
        for row, ids_1 in enumerate(torch.split(ids_B, 1)):
            out = self.module.base_model(input_ids=ids_1[None], past_key_values=cache.rows[row], use_cache=True)
            cache.rows[row] = self._cached(out)
            hiddens.append(out.last_hidden_state[0])
        cache.advance()
        return torch.cat(hiddens)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        logits_NV: Tensor = self.module.get_output_embeddings()(hidden_ND.to(self.dtype))
        return logits_NV * self._logit_factor

    def loss(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        return -self.log_probs(hidden_ND, targets_N).sum()

    def log_probs(self, hidden_ND: Tensor, targets_N: Tensor, temperature: float = 1.0) -> Tensor:
        chunks = zip(torch.split(hidden_ND, ROWS_PER_CHUNK), torch.split(targets_N, ROWS_PER_CHUNK), strict=True)
        outs = [checkpoint(self._picked, *chunk, temperature, use_reentrant=False) for chunk in chunks]
        return torch.cat(outs) if outs else hidden_ND.new_zeros(0, dtype=torch.float32)

    def _picked(self, hidden_CD: Tensor, targets_C: Tensor, temperature: float) -> Tensor:
        logits_CV = self.logits(hidden_CD)
        wide_CV = logits_CV if logits_CV.dtype == torch.float64 else logits_CV.float()
        return (wide_CV / temperature).log_softmax(-1).gather(1, targets_C[:, None])[:, 0]

    def new_cache(self, num_rows: int, max_tokens: int) -> KVCache:
        return ForeignCache(num_rows, max_tokens, dtype=self.dtype, device=self.device)

    @property
    def head_weight(self) -> Tensor:
        weight: Tensor = self.module.get_output_embeddings().weight
        return weight

    @torch.no_grad()
    def measure_head(self) -> None:
        """Some architectures scale their logits after the head; find the factor, refuse whatever is more than that."""
        ids = torch.arange(min(8, self.spec.vocab_size or 8), device=self.device)[None]
        truth = self.module(input_ids=ids, use_cache=False).logits[0].double()
        ours = self.logits(self.module.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]).double()
        factor = float((truth * ours).sum() / ours.square().sum()) if ours.any() else 1.0
        tolerance = 1e-4 if self.dtype in (torch.float32, torch.float64) else 5e-2
        if not torch.allclose(truth, ours * factor, rtol=tolerance, atol=tolerance * float(truth.abs().max())):
            raise ModelError("model.head_unknown", where=str(self.folder), family=self.spec.family)
        self._logit_factor = 1.0 if abs(factor - 1) < tolerance else factor


def load_foreign(
    folder: Path, config: dict[str, Any], *, dtype: torch.dtype, device: torch.device,
    init: Literal["pretrained", "random"], seed: int,
) -> ForeignModel:  # fmt: skip
    """A foreign model from a folder, safetensors only; shards are looked at before transformers opens them."""
    if config["model_type"] not in transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError("model.not_causal", where=str(folder / "config.json"), given=config["model_type"])
    if init == "random":
        shape = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype, trust_remote_code=False)
    else:
        for shard in find_shards(folder):
            read_header(shard)
        module = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True
        )
    model = ForeignModel(module.to(device).eval(), folder, config)
    model.measure_head()
    if init == "random":
        model._digest = sha256_json({"config": config, "init": "random", "seed": seed})
    else:
        model._digest = lambda: digest_folder(folder)
    return model


def save_foreign(model: ForeignModel, folder: Path, dtype: torch.dtype) -> None:
    """transformers writes what transformers reads; its names on disk may differ from those in memory. Another dtype
    on disk is a copy's: the living weights keep every bit."""
    module = model.module if dtype == model.dtype else copy.deepcopy(model.module).to(dtype)
    if folder.is_dir() and any(folder.iterdir()):
        module.save_pretrained(folder)
        copy_beside(model.folder, folder)
    else:
        with replacing_folder(folder) as fresh:
            module.save_pretrained(fresh)
            copy_beside(model.folder, fresh)


@torch.no_grad()
def load_foreign_state(model: ForeignModel, folder: Path) -> None:
    """A checkpoint's tensors into a living model, in place."""
    other = load_foreign(folder, model.config, dtype=model.dtype, device=torch.device("cpu"), init="pretrained", seed=0)
    own = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        own[name].copy_(parameter)
