"""Fidelity and coverage of generated samples by their nearest neighbours in feature space.

The ball of a sample is centred on it and reaches to its k-th nearest neighbour in its own set.

    precision   share of generated samples in the ball of any real one
    recall      share of real samples in the ball of any generated one
    density     real balls around a generated sample, on average, divided by k; may exceed 1
    coverage    share of real samples whose ball holds a generated one

Sources:  Kynkaanniemi et al., "Improved precision and recall metric for assessing generative
models", NeurIPS 2019, for the first two; Naeem et al., "Reliable fidelity and diversity metrics for
generative models", ICML 2020, for the others
"""

from __future__ import annotations

import torch
from torch import Tensor

from tools.metrics.estimate import checked_pair

BLOCK = 2**24  # distances held at a time: 128 MB
# What rounding may add to a squared distance, in units of the squared lengths: a sample lies in a
# ball that ends at its copy, however the sums were blocked.
ROUNDING = 1e-12


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> dict[str, float]:
    """Precision, recall, density and coverage of (N, width) real and (M, width) fake features.

    Memory grows with N + M, time with their products.

    Raises:  ValueError for k < 1, k or fewer samples on a side, other widths, NaN or infinity
    """
    if k < 1:
        raise ValueError(f"precision and recall: k must be at least 1, got {k}")
    real, fake = checked_pair(real, fake, least=k + 1)
    centre = real.mean(0)  # long vectors would lose the digits of short distances
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)

    covered = recalled = 0
    balls = torch.zeros(len(fake), dtype=torch.float64)  # real balls around each generated sample
    rows = _block_rows(len(fake))
    for block, radii in zip(real.split(rows), real_radii.split(rows), strict=True):
        distances = _squared_distances(block, fake)
        in_real = distances <= radii[:, None]
        balls += in_real.sum(0)
        covered += int(in_real.any(1).sum())
        recalled += int((distances <= fake_radii).any(1).sum())
    return {
        "precision": float((balls > 0).double().mean()),
        "recall": recalled / len(real),
        "density": float(balls.mean()) / k,
        "coverage": covered / len(real),
    }


def _squared_radii(values: Tensor, k: int) -> Tensor:
    """The squared distance of each row to its k-th nearest other row, (N,)."""
    radii = []
    rows = _block_rows(len(values))
    for start in range(0, len(values), rows):
        distances = _squared_distances(values[start : start + rows], values)
        distances.diagonal(start).fill_(torch.inf)  # not its own neighbour
        radii.append(distances.topk(k, dim=1, largest=False).values[:, -1])
    slack = ROUNDING * values.square().sum(1).max()
    return torch.cat(radii) + slack


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)


def _block_rows(columns: int) -> int:
    return max(1, BLOCK // columns)
