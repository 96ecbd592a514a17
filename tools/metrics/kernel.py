"""The kernel distance: an unbiased distance of two sets of features (KID, KVD).

Source:  Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4
"""

from __future__ import annotations

import torch
from torch import Tensor

from tools.metrics.estimate import Estimate, checked_pair


def squared_mmd(first: Tensor, second: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (x . y / width + 1)^3.

    For equal distributions it is zero on average, so about half of its values are negative.

    Inputs:  (N, width) and (M, width), both N, M >= 2
    """
    x, y = checked_pair(first, second)
    within_x = (_kernel(x, x).sum() - _kernel_diagonal(x).sum()) / (len(x) * (len(x) - 1))
    within_y = (_kernel(y, y).sum() - _kernel_diagonal(y).sum()) / (len(y) * (len(y) - 1))
    return float(within_x + within_y - 2 * _kernel(x, y).mean())


def kernel_distance(
    first: Tensor, second: Tensor, subset_size: int, subsets: int = 100, seed: int = 0
) -> Estimate:
    """Mean and standard deviation of `squared_mmd` over random subsets of both sides."""
    x, y = checked_pair(first, second)
    if not 2 <= subset_size <= min(len(x), len(y)):
        raise ValueError(
            f"kernel distance: subsets of {subset_size} samples cannot be drawn from "
            f"{len(x)} and {len(y)}"
        )
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(
        [
            squared_mmd(
                x[torch.randperm(len(x), generator=generator)[:subset_size]],
                y[torch.randperm(len(y), generator=generator)[:subset_size]],
            )
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return Estimate(float(values.mean()), float(values.std(correction=0)))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_diagonal(x: Tensor) -> Tensor:
    return (x.square().mean(1) + 1) ** 3
