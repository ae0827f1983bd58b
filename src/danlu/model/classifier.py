"""An encoder (Devlin et al. 2019, arXiv:1810.04805) with a head that names the class of a text: BERT, RoBERTa and kin.

Texts lie end to end in one flat row, as for the decoder; a token sees its whole text, before it and after it, and no
other. What the head reads is a text's first token. Attribute names are those of BERT's checkpoints; what others call
differently stands in their family's tables. Not covered: generating, masked language modelling, pairs of texts.

Shapes: T tokens of all texts, N texts, C classes, D hidden, H heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from danlu.core.errors import ModelError
from danlu.model.cache import KVCache
from danlu.model.model import Model
from danlu.model.spec import Spec
from danlu.ops.attention import Bounds, bidirectional_attention
from danlu.ops.gated import activated


@dataclass(frozen=True, slots=True)
class EncoderSpec(Spec):
    """Places are learnt, so there are no ropes; nothing is gated, every linear layer has a bias."""

    num_positions: int = 512
    """Rows of the table of places, of which the first text token takes number `first_position`."""
    first_position: int = 0
    num_types: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.1
    drops_first: bool = False
    """RoBERTa's head drops out what it reads, too."""
    architecture: str = "BertForSequenceClassification"
    """What transformers calls it with a head."""

    def __post_init__(self) -> None:
        assert not self.ropes, "an encoder's places are learnt"


class Embeddings(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.word_embeddings = _table(spec.vocab_size, spec.hidden_size)
        self.position_embeddings = _table(spec.num_positions, spec.hidden_size)
        self.token_type_embeddings = _table(spec.num_types, spec.hidden_size)
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, spec.norm_eps)

    def forward(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        x_TD = self.word_embeddings(ids_T) + self.token_type_embeddings.weight[0]
        x_TD = x_TD + self.position_embeddings(positions_T + self.spec.first_position)
        return F.dropout(self.LayerNorm(x_TD), self.spec.dropout, self.training)


def _table(num_rows: int, size: int) -> nn.Embedding:
    """Its own draw, on the meta device, would load torch's compiler."""
    return nn.Embedding(num_rows, size, _weight=torch.empty(num_rows, size))


class SelfAttention(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.query = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.key = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.value = nn.Linear(spec.hidden_size, spec.hidden_size)

    def forward(self, x_TD: Tensor, bounds: Bounds) -> Tensor:
        shape = (self.spec.num_heads, self.spec.head_size)
        q_THD, k_THD, v_THD = (layer(x_TD).unflatten(-1, shape) for layer in (self.query, self.key, self.value))
        dropout = self.spec.attention_dropout if self.training else 0.0
        out_THD = bidirectional_attention(q_THD, k_THD, v_THD, bounds, scale=self.spec.attention_scale, dropout=dropout)
        return out_THD.flatten(-2)


class Output(nn.Module):
    """A projection back into the stream, added and normed: x ← norm(x + dropout(W y))."""

    def __init__(self, spec: EncoderSpec, size: int) -> None:
        super().__init__()
        self.dropout = spec.dropout
        self.dense = nn.Linear(size, spec.hidden_size)
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, spec.norm_eps)

    def forward(self, y_TD: Tensor, x_TD: Tensor) -> Tensor:
        out_TD: Tensor = self.LayerNorm(x_TD + F.dropout(self.dense(y_TD), self.dropout, self.training))
        return out_TD


class Block(nn.Module):
    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.activation = spec.activation
        self.attention = nn.ModuleDict({"self": SelfAttention(spec), "output": Output(spec, spec.hidden_size)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(spec.hidden_size, spec.ffn_size)})
        self.output = Output(spec, spec.ffn_size)

    def forward(self, x_TD: Tensor, bounds: Bounds) -> Tensor:
        x_TD = self.attention["output"](self.attention["self"](x_TD, bounds), x_TD)
        wide_TF = activated(self.intermediate["dense"](x_TD), self.activation)
        out_TD: Tensor = self.output(wide_TF, x_TD)
        return out_TD


class Trunk(nn.Module):
    """Everything that BERT's checkpoints call `bert.`; the pooler is the head's first layer."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.embeddings = Embeddings(spec)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(spec) for _ in range(spec.num_layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(spec.hidden_size, spec.hidden_size)})

    @property
    def blocks(self) -> nn.ModuleList:
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList), "as it was made"
        return layers


class Classifier(Model):
    """`classes` are those that the head tells, in its order; none until it is told which there are. `begun` are parts
    that no checkpoint held and training begins anew, `replaced` the classes of a checkpoint's head that made room."""

    spec: EncoderSpec

    def __init__(self, spec: EncoderSpec, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(spec, folder, config)
        self.bert = Trunk(spec)
        self.classes: tuple[str, ...] = ()
        self.begun: tuple[str, ...] = ()
        self.replaced: tuple[str, ...] = ()
        if any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
            self._make_head(_classes_of(config))

    def _make_head(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.classifier = nn.Linear(self.spec.hidden_size, len(classes))

    @torch.no_grad()
    def tell(self, classes: Mapping[str, int]) -> None:
        """From now on these classes (with how often each was seen) are told apart, in the order of their names. A head
        that knows them is kept; a new one answers the most frequent class and gives each its share, so training begins
        at the classes' entropy."""
        names, known = tuple(sorted(classes)), self.classes
        if names == known:
            return
        head = self.classifier if known else None
        like = self.bert.embeddings.word_embeddings.weight
        with torch.device("meta"):
            self._make_head(names)
        self.classifier.to(like.dtype).to_empty(device=like.device)
        if head is not None and names == tuple(sorted(known)):
            order = [known.index(name) for name in names]
            self.classifier.weight.copy_(head.weight[order])
            self.classifier.bias.copy_(head.bias[order])
        else:
            shares = torch.tensor([classes[name] for name in names], dtype=torch.float64)
            self.classifier.weight.zero_()
            self.classifier.bias.copy_((shares / shares.sum()).log())
            self.begun, self.replaced = (*self.begun, "classifier"), known
        self.config = self.config | {
            "architectures": [self.spec.architecture],
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }

    def hidden(self, ids_T: Tensor, positions_T: Tensor, bounds: Bounds, cache: KVCache | None = None) -> Tensor:
        assert cache is None, "an encoder reads its text as a whole: nothing of it can be kept for later"
        assert len(ids_T) == len(positions_T) == bounds.num_tokens, "ids, positions and bounds speak of the same tokens"
        x_TD: Tensor = self.bert.embeddings(ids_T, positions_T)
        for block in self.bert.blocks:
            x_TD = block(x_TD, bounds)
        return x_TD

    def firsts(self, ids_T: Tensor, bounds: Bounds) -> Tensor:
        """hidden_ND of each text's first token: what the head reads."""
        starts_N = torch.tensor(bounds.cu_seqlens[:-1], device=ids_T.device)
        return self.hidden_at(ids_T, bounds.positions(ids_T.device), bounds, starts_N)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """logits_NC of texts, given their first tokens."""
        assert self.classes, "told its classes first"
        if self.spec.drops_first:
            hidden_ND = F.dropout(hidden_ND, self.spec.head_dropout, self.training)
        pooled_ND = torch.tanh(self.bert.pooler["dense"](hidden_ND))
        logits_NC: Tensor = self.classifier(F.dropout(pooled_ND, self.spec.head_dropout, self.training))
        return logits_NC

    def log_probs(self, hidden_ND: Tensor, targets_N: Tensor, temperature: float = 1.0) -> Tensor:
        logits_NC = self.logits(hidden_ND)
        wide_NC = logits_NC if logits_NC.dtype == torch.float64 else logits_NC.float()
        return (wide_NC / temperature).log_softmax(-1).gather(1, targets_N[:, None])[:, 0]

    def loss(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        return -self.log_probs(hidden_ND, targets_N).sum()

    def new_cache(self, num_rows: int, max_tokens: int) -> KVCache:
        raise AssertionError("an encoder writes nothing")

    def step(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        raise AssertionError("an encoder writes nothing")

    @property
    def head_weight(self) -> Tensor:
        """weight_CD; before classes are told, the embedding, which lies where the head will."""
        return self.classifier.weight if self.classes else self.bert.embeddings.word_embeddings.weight

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Fresh weights, as BERT was begun: normal with the config's std, biases zero, norms at identity."""
        self.draw((name for name, _ in self.named_parameters()), generator)

    @torch.no_grad()
    def draw(self, names: Iterable[str], generator: torch.Generator) -> None:
        """Fresh weights for some: in fp32 on the CPU, so that a seed means the same ones everywhere."""
        for name in names:
            parameter = self.get_parameter(name)
            if parameter.dim() > 1:
                fresh = torch.empty(parameter.shape).normal_(0.0, self.spec.init_std, generator=generator)
                parameter.copy_(fresh)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def _classes_of(config: dict[str, Any]) -> tuple[str, ...]:
    """By number. ModelError for a table that names none."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        raise ModelError("model.bad_classes", where="config.json", given=str(names)[:80])
    return tuple(str(names[key]) for key in sorted(names, key=int))
