"""Pseudo-labels: what a network believes of clips without labels, and the loss that teaches it.

FixMatch, arXiv 2001.07685; the alignment of distributions, arXiv 1911.09785.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PseudoLabels:
    """What B clips without labels are taken for.

    targets  probabilities to be taught (B, C), rows of sum 1; one-hot in FixMatch
    mask     (B,) 1 where the clip counts, else 0
    """

    targets: Tensor
    mask: Tensor

    @property
    def classes(self) -> Tensor:
        """The likeliest class of each clip (B,)."""
        return self.targets.argmax(dim=1)


def hard_labels(probabilities: Tensor, threshold: float) -> PseudoLabels:
    """The likeliest class of each row (B, C), which counts from the probability `threshold` on."""
    highest, classes = probabilities.detach().max(dim=1)
    targets = F.one_hot(classes, probabilities.shape[1]).to(probabilities.dtype)
    return PseudoLabels(targets, (highest >= threshold).to(probabilities.dtype))


def soft_labels(probabilities: Tensor, threshold: float) -> PseudoLabels:
    """The probabilities (B, C) themselves; a row counts from the probability `threshold` on."""
    fixed = probabilities.detach()
    return PseudoLabels(fixed, (fixed.amax(dim=1) >= threshold).to(fixed.dtype))


def masked_loss(logits: Tensor, labels: PseudoLabels) -> Tensor:
    """Mean over the batch of mask x cross-entropy, for logits (B, C); a scalar.

    The mean is over all B clips, so few confident ones make a small loss.
    """
    return (F.cross_entropy(logits, labels.targets, reduction="none") * labels.mask).mean()


def fixmatch_loss(
    weak: Tensor,
    strong: Tensor,
    threshold: float,
    *,
    probabilities: Tensor | None = None,
    loss_on: Literal["strong", "weak"] = "strong",
) -> tuple[Tensor, PseudoLabels]:
    """FixMatch's loss of clips without labels, from the logits (B, C) of two views of each.

    The weak view decides, without gradient, by softmax or by the given (aligned) probabilities.
    The view `loss_on` is taught: "weak" is the published experiment's, and leaves the strong
    view without any gradient.
    """
    if probabilities is None:
        probabilities = weak.softmax(dim=1)
    labels = hard_labels(probabilities, threshold)
    return masked_loss(strong if loss_on == "strong" else weak, labels), labels


def aligned(probabilities: Tensor, mean: Tensor, target: Tensor) -> Tensor:
    """Probabilities (B, C) times target / mean (C,), rows of sum 1 again.

    Where the target is the running mean nothing changes; a row that is the running mean becomes
    the target. Classes that never occur (mean 0) stay as they are.
    """
    smallest = torch.finfo(mean.dtype).tiny
    scaled = probabilities * (target / mean.clamp(min=smallest))
    return scaled / scaled.sum(dim=1, keepdim=True)


class Alignment:
    """The running mean of predictions over the last batches, and predictions aligned by it.

    Inputs:  target (C,), probabilities that the mean is to become; length, batches in the mean
    """

    def __init__(self, target: Tensor, length: int) -> None:
        self.target = target
        self.length = length
        self._means: deque[Tensor] = deque(maxlen=length)

    def __len__(self) -> int:
        return len(self._means)

    @property
    def mean(self) -> Tensor:
        """The running mean (C,)."""
        return torch.stack(tuple(self._means)).mean(dim=0)

    def align(self, probabilities: Tensor, batch_mean: Tensor) -> Tensor:
        """Count a batch in, and align its probabilities (B, C).

        `batch_mean` (C,) is that of the batches of all processes.
        """
        self._means.append(batch_mean.detach().clone())
        return aligned(probabilities, self.mean, self.target)

    def forget(self) -> None:
        """Begin the running mean anew."""
        self._means.clear()

    def state(self) -> Tensor:
        """The batch means (n, C), the oldest first."""
        empty = self.target.new_zeros(0, len(self.target))
        return torch.stack(tuple(self._means)) if self._means else empty

    def load(self, state: Tensor) -> None:
        """Go on from `state()`."""
        self._means.clear()
        self._means.extend(state.to(self.target))


def marginal(labels: Sequence[int], classes: int = 2) -> Tensor:
    """The share of each class among labels: (classes,) float32."""
    counts = torch.bincount(torch.tensor(labels, dtype=torch.int64), minlength=classes)
    return counts.float() / counts.sum()


def quality(labels: PseudoLabels, truth: Tensor) -> dict[str, Tensor]:
    """Sums over a batch, from which `rates` tells how good pseudo-labels are.

    Inputs:  truth (B,) of classes, -1 where it is not known; it is for this report alone
    """
    classes, counts = labels.classes, labels.mask.double()
    known = (truth >= 0).double()
    right = (classes == truth).double()
    return {
        "clips": torch.ones_like(counts).sum(),
        "accepted": counts.sum(),
        "accepted_abnormal": (counts * (classes == 1)).sum(),
        "abnormal": (classes == 1).double().sum(),
        "known": known.sum(),
        "right": (known * right).sum(),
        "accepted_known": (known * counts).sum(),
        "accepted_right": (known * counts * right).sum(),
    }


def rates(sums: dict[str, float]) -> dict[str, float]:
    """Shares from sums of `quality` over batches; those without any clip to count are left out.

    mask_rate              of clips that counted
    pseudo_abnormal        of those that counted, taken for abnormal
    pseudo_accuracy        of those that counted, taken for what they are
    pseudo_accuracy_all    of all, counted or not
    """
    parts = {
        "mask_rate": ("accepted", "clips"),
        "pseudo_abnormal": ("accepted_abnormal", "accepted"),
        "pseudo_abnormal_all": ("abnormal", "clips"),
        "pseudo_accuracy": ("accepted_right", "accepted_known"),
        "pseudo_accuracy_all": ("right", "known"),
    }
    return {name: sums[part] / sums[of] for name, (part, of) in parts.items() if sums.get(of)}
