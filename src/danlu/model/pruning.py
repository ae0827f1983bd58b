"""Depth pruning: a decoder without the layers that change its stream least.

A layer's block influence is 1 − cos(its input, its output), the mean over the tokens of calibration texts (Men et al.
2024, ShortGPT, arXiv:2403.03853). Layers of little influence are left out, all at once, wherever they stand. What that
costs is measured by whoever asks, and mended by training (Gromov et al. 2024, arXiv:2403.17887): a pruned model that
was not trained again is not meant to be used.

Shapes: T tokens of a text, D hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from danlu.core.errors import ModelError
from danlu.model.build import family_of
from danlu.model.decoder import Decoder
from danlu.ops.attention import Bounds

LAYERS = "model.layers."


@torch.no_grad()
def block_influence(
    model: Decoder, texts: Sequence[Tensor], *, watch: Callable[[int], None] = lambda num: None
) -> list[float]:
    """One number a layer, in [0, 2]; 0 is a layer that only lengthens the stream. `texts` are ids_T, on any device."""
    sums = torch.zeros(model.spec.num_layers, dtype=torch.float64)

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def note(block: nn.Module, given: tuple[Any, ...], out_TD: Tensor) -> None:
            alike_T = nn.functional.cosine_similarity(given[0].float(), out_TD.float(), dim=-1)
            sums[layer] += float((1.0 - alike_T.double()).sum())

        return note

    with contextlib.ExitStack() as stack:
        for layer, block in enumerate(model.model.layers):
            stack.callback(block.register_forward_hook(hook(layer)).remove)
        for ids_T in texts:
            hidden_of(model, ids_T)
            watch(1)
    return (sums / sum(map(len, texts))).tolist()


def least_influential(influence: Sequence[float], num_layers: int) -> tuple[int, ...]:
    """Which layers to leave out, in their order; of equals the deeper one."""
    ranked = sorted(range(len(influence)), key=lambda layer: (influence[layer], -layer))
    return tuple(sorted(ranked[:num_layers]))


def without_layers(model: Decoder, left_out: Sequence[int]) -> Decoder:
    """A decoder of the same weights, not copied, that has never had these layers. ModelError where a checkpoint cannot
    say which kinds the rest are of."""
    kept = [layer for layer in range(model.spec.num_layers) if layer not in set(left_out)]
    config = config_of(model, kept)
    spec, expected = family_of(config).spec(config), model.spec
    expected = replace(
        expected, num_layers=len(kept), ropes=tuple(expected.ropes[layer] for layer in kept),
        windows=tuple(expected.windows[layer] for layer in kept),
    )  # fmt: skip
    if spec != expected:
        raise ModelError("prune.pattern", where=str(model.folder), family=expected.family)
    with torch.device("meta"):
        pruned = Decoder(spec, model.folder, config)
    places = {f"{LAYERS}{old}.": f"{LAYERS}{new}." for new, old in enumerate(kept)}
    state = {}
    for name, weight in model.named_parameters():
        stem = next((old for old in places if name.startswith(old)), None)
        if stem is not None:
            state[places[stem] + name.removeprefix(stem)] = weight
        elif not name.startswith(LAYERS):
            state[name] = weight
    pruned.load_state_dict(state, assign=True)
    return pruned.eval()


def config_of(model: Decoder, kept: Sequence[int]) -> dict[str, Any]:
    """config.json of these layers alone. Where layers are of several kinds each is named: patterns go by position."""
    config = model.config | {"num_hidden_layers": len(kept)}
    windows = model.spec.windows
    if "layer_types" in config or len(set(windows)) > 1:
        kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
        named = config.get("layer_types") or kinds
        config["layer_types"] = [named[layer] for layer in kept]
    return config


@contextlib.contextmanager
def skipping(model: Decoder, left_out: Sequence[int]) -> Iterator[None]:
    """Inside the block these layers hand their input on, and nothing else changes: what a pruned model is held to."""
    whole = model.model.layers
    model.model.layers = nn.ModuleList(_Skipped() if n in set(left_out) else block for n, block in enumerate(whole))
    try:
        yield
    finally:
        model.model.layers = whole


class _Skipped(nn.Module):
    """A layer that is not there."""

    def forward(self, x_TD: Tensor, *others: Any) -> Tensor:
        return x_TD


def hidden_of(model: Decoder, ids_T: Tensor) -> Tensor:
    """hidden_TD of one text."""
    bounds = Bounds.of([len(ids_T)])
    return model.hidden(ids_T.to(model.device), bounds.positions(model.device), bounds)
