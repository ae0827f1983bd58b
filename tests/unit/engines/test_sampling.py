"""Drawing: what is kept, what is drawn, and that a question's draws are its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import EngineError
from danlu.engines.engine import Sampling
from danlu.engines.sampling import NUM_CANDIDATES, candidates, check_sampling, choose, draws, invert


def shares(logits: list[float], sampling: Sampling, num: int = 20_000) -> np.ndarray:
    logits_BV = torch.tensor(logits).expand(num, -1)
    draws_B = torch.from_numpy(draws(sampling, [1, 2, 3], num))
    ids_B, _ = choose(logits_BV, sampling, draws_B)
    return np.bincount(ids_B.numpy(), minlength=len(logits)) / num


def test_greedy_takes_the_first_of_the_highest() -> None:
    ids_B, peak_B = choose(torch.tensor([[0.0, 3.0, 3.0], [5.0, 1.0, 2.0]]), Sampling(), None)
    assert ids_B.tolist() == [1, 0] and peak_B.tolist() == [3.0, 5.0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.999999])
def test_draws_follow_the_softmax(temperature: float, top_p: float) -> None:
    logits = [1.0, 0.0, -1.0, 2.0, -30.0]
    expected = (torch.tensor(logits).double() / temperature).softmax(0).numpy()
    # 20,000 draws: three standard deviations of a share are below 0.011
    assert np.abs(shares(logits, Sampling(temperature=temperature, top_p=top_p)) - expected).max() < 0.011


def test_top_k_keeps_k_and_top_p_keeps_the_token_that_passes_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert (shares(logits, Sampling(temperature=1, top_k=2)) > 0).tolist() == [True, True, False, False]
    assert shares(logits, Sampling(temperature=1, top_k=2))[0] == pytest.approx(0.625, abs=0.011)
    assert (shares(logits, Sampling(temperature=1, top_p=0.79)) > 0).tolist() == [True, True, False, False]
    assert (shares(logits, Sampling(temperature=1, top_p=0.81)) > 0).tolist() == [True, True, True, False]
    assert shares(logits, Sampling(temperature=1, top_p=0.01))[0] == 1.0


def test_a_nucleus_wider_than_the_candidates_is_found() -> None:
    logits_BV = torch.zeros(2, 4 * NUM_CANDIDATES)
    weights_BK, _ = candidates(logits_BV, Sampling(temperature=1.0, top_p=0.5))
    num_kept_B = (weights_BK > 0).sum(-1)
    assert (num_kept_B - 2 * NUM_CANDIDATES).abs().max() <= 1, "half of equal weights, to one for round-off at the edge"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1, exclude_max=True))
@settings(max_examples=200)
def test_a_draw_never_lands_on_a_weight_of_zero(weights: list[float], draw: float) -> None:
    weights = [w if w > 1e-300 else 0.0 for w in weights]
    if sum(weights) == 0:
        return
    found = int(invert(torch.tensor([weights], dtype=torch.float64), torch.tensor([draw], dtype=torch.float64))[0])
    assert weights[found] > 0


def test_a_vocabulary_in_pieces_gives_what_it_gives_as_one() -> None:
    generator = torch.Generator().manual_seed(2)
    weights_BK = torch.rand(64, 12 * 128, generator=generator, dtype=torch.float64).pow(40)
    weights_BK[:, ::3] = 0
    weights_BK[:8, 128:1400] = 0
    for draw in (0.0, 0.3, 0.7, 1 - 2**-53):
        draws_B = torch.full((64,), draw, dtype=torch.float64)
        found_B = invert(weights_BK, draws_B)
        mass_BK = weights_BK.cumsum(-1)
        aim_B1 = draw * mass_BK[:, -1:]
        rows_B = torch.arange(64)
        assert (weights_BK[rows_B, found_B] > 0).all()
        assert (mass_BK[rows_B, found_B] >= aim_B1[:, 0] * (1 - 1e-12)).all()
        assert ((mass_BK - weights_BK)[rows_B, found_B] <= aim_B1[:, 0] * (1 + 1e-12)).all()


def test_draws_belong_to_seed_and_prompt_alone() -> None:
    first = draws(Sampling(seed=7), [1, 2], 5)
    assert (draws(Sampling(seed=7, max_new_tokens=99), [1, 2], 9)[:5] == first).all()
    assert (draws(Sampling(seed=8), [1, 2], 5) != first).all() and (draws(Sampling(seed=7), [2, 1], 5) != first).all()
    assert ((first >= 0) & (first < 1)).all()


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(temperature=-1), Sampling(temperature=float("nan")), Sampling(temperature=float("inf")), Sampling(top_p=0), Sampling(top_p=1.1), Sampling(top_k=-1), Sampling(seed=-1), Sampling(stop=("",))])  # fmt: skip
def test_senseless_sampling_is_named(sampling: Sampling) -> None:
    with pytest.raises(EngineError) as caught:
        check_sampling(sampling)
    assert caught.value.key == "engine.bad_sampling" and caught.value.where
