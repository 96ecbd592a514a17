"""JEDi: the distance of two sets of V-JEPA features under a quadratic kernel."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = 100.0  # of the published score


def jedi(first: Tensor, second: Tensor, scale: float = SCALE) -> float:
    """100 times the biased squared MMD with the kernel (x.y / width)^2.

    Input:   (N, width), (M, width)
    Raises:  ValueError for an empty set, other widths, NaN or infinity

    With S = X^T X / N the mean of the kernel is |S_x - S_y|^2 / width^2, so the score compares
    second moments alone; it is never negative and 0 for equal sets.

    Source:  Luo et al., "Beyond FVD: enhanced evaluation metrics for video generation quality",
             2024
    """
    x, y = (values.detach().to("cpu", torch.float64) for values in (first, second))
    if x.ndim != 2 or y.ndim != 2 or not len(x) or not len(y) or x.shape[1] != y.shape[1]:
        raise ValueError(f"JEDi of features {tuple(first.shape)} and {tuple(second.shape)}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("JEDi: features hold NaN or infinity")
    difference = x.T @ x / len(x) - y.T @ y / len(y)
    return scale * float(difference.square().sum()) / x.shape[1] ** 2
