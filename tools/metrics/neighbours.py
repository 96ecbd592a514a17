"""Fidelity and coverage of generated samples by their nearest neighbours in feature space."""

from __future__ import annotations

import torch
from torch import Tensor

from tools.metrics.estimate import checked_pair


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> dict[str, float]:
    """Precision, recall, density and coverage of (N, width) against (M, width) features.

    The ball of a sample reaches to its k-th nearest neighbour in its own set.
    """
    real, fake = checked_pair(real, fake, least=k + 1)
    to_real = torch.cdist(real, fake)  # (N, M)
    real_radii = torch.cdist(real, real).kthvalue(k + 1, dim=1).values
    fake_radii = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    in_real = to_real <= real_radii[:, None]
    in_fake = to_real <= fake_radii[None, :]
    return {
        "precision": float(in_real.any(0).double().mean()),
        "recall": float(in_fake.any(1).double().mean()),
        "density": float(in_real.double().sum(0).mean() / k),
        "coverage": float(in_real.any(1).double().mean()),
    }
