"""A score with its uncertainty, and what feature matrices must be to give one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A value and its standard deviation, in the unit of the score."""

    value: float
    deviation: float


@dataclass(frozen=True)
class Deviation:
    """A standard deviation, and the number of resamples that it was estimated from.

    Of R resamples it is itself uncertain by about 1 / sqrt(2 R): 7 % of 100, 16 % of 20.
    """

    value: float
    resamples: int


def require_features(values: Tensor, least: int = 2) -> None:
    """Raise ValueError unless it is a finite matrix (N, width) with N >= least."""
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"features: a matrix (samples, width) is needed, got {(*values.shape,)}")
    if len(values) < least:
        raise ValueError(f"features: at least {least} samples are needed, got {len(values)}")
    finite = torch.isfinite(values).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise ValueError(
            f"features: NaN or infinity in {int((~finite).sum())} of {len(values)} samples, "
            f"first in sample {first}; look at that input and at the extractor's weights"
        )


def checked(values: Tensor, least: int = 2) -> Tensor:
    """The same features as float64 on the CPU, not to be written to; errors as above."""
    require_features(values, least)
    return values.detach().to("cpu", torch.float64)


def checked_pair(first: Tensor, second: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Two sets of features of one extractor, as `checked` gives them."""
    pair = checked(first, least), checked(second, least)
    require_same_width(first.shape[1], second.shape[1])
    return pair


def require_same_width(first: int, second: int) -> None:
    """Raise ValueError when two sets cannot come from one extractor."""
    if first != second:
        raise ValueError(
            f"features: widths {first} and {second} differ; both sides need the same extractor"
        )
