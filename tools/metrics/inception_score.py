"""The inception score: how sure a classifier is of each sample, and how varied its answers are.

Source:  Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, section 4
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from tools.metrics.estimate import Estimate, require_features


def inception_score(logits: Tensor, splits: int, seed: int = 0) -> Estimate:
    """Mean and standard deviation of the score over `splits` parts of the samples.

        score of a part = exp(mean over its rows p of KL(p | mean p)) = exp(H(mean p) - mean H(p))

    The samples are shuffled, and each is used in exactly one part; the sizes of the parts differ by
    at most one. The score lies between 1 and the smaller of K and the size of the part.

    Inputs:  logits (N, K) before the softmax, finite
    Output:  mean and population standard deviation over the parts, as is usual
    Raises:  ValueError for fewer samples than splits
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"inception score: {len(logits)} samples do not fill {splits} splits")
    require_features(logits, least=1)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    borders = [k * len(logits) // splits for k in range(splits + 1)]
    scores = torch.stack([_score(logits[order[a:b]]) for a, b in pairwise(borders)])
    return Estimate(float(scores.mean()), float(scores.std(correction=0)))


def _score(logits: Tensor) -> Tensor:
    probabilities = logits.detach().to("cpu", torch.float64).softmax(1)
    # entr(0) = 0: a certain classifier gives no NaN
    together = torch.special.entr(probabilities.mean(0)).sum()
    apart = torch.special.entr(probabilities).sum(1).mean()
    return torch.exp(together - apart)
