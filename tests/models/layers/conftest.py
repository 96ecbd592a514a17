"""Comparison of two ways to compute something that has to be differentiated twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Compare = Callable[..., None]


@pytest.fixture
def same_to_second_order() -> Compare:
    """`same_to_second_order(fast, slow, *inputs)`: values, gradients, gradients of gradients.

    The inputs are float64; both functions map all of them to one tensor.
    """

    def derivatives(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
        inputs = tuple(each.detach().clone().requires_grad_() for each in inputs)
        random = torch.Generator().manual_seed(5)

        def projection(tensors: tuple[Tensor | None, ...]) -> Tensor:
            parts = [
                (each * torch.randn(each.shape, dtype=each.dtype, generator=random)).sum()
                for each in tensors
                if each is not None
            ]
            return torch.stack(parts).sum()

        values = function(*inputs)
        weights = torch.randn(values.shape, dtype=values.dtype, generator=random).requires_grad_()
        first = torch.autograd.grad((values * weights).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(projection(first), (*inputs, weights), allow_unused=True)
        return [values, *first, *(torch.zeros(()) if each is None else each for each in second)]

    def compare(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> None:
        for found, wanted in zip(derivatives(fast, inputs), derivatives(slow, inputs), strict=True):
            assert found.isfinite().all()
            difference = (found.double() - wanted.double()).abs().max()
            assert difference <= 1e-9 * (1 + wanted.abs().max())

    return compare
