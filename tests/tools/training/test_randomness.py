from __future__ import annotations

import random

import numpy
import pytest
import torch

from tools.training.randomness import reseed


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(numpy.random.rand()), random.random()


def test_the_same_step_draws_the_same_numbers_whatever_came_before() -> None:
    reseed(1, 0, 5)
    first = draw()
    draw()
    reseed(1, 0, 5)
    assert draw() == first


@pytest.mark.parametrize("other", [(2, 0, 5), (1, 1, 5), (1, 0, 6), (1, 5, 0), (10, 5, 0)])
def test_another_seed_rank_or_step_draws_others(other: tuple[int, int, int]) -> None:
    reseed(1, 0, 5)
    first = draw()
    reseed(*other)
    assert not set(first) & set(draw())


def test_negative_and_large_seeds_are_fine() -> None:
    for seed in (-1, 2**80):
        reseed(seed, 0, 0)
        assert 0 <= torch.rand(()).item() < 1
