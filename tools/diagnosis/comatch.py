"""What CoMatch adds to FixMatch (arXiv 2011.11183): a memory that smooths pseudo-labels, and a
contrast between two strong views whose positives are the clips of like predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """Features (B, D) -> embeddings (B, width) of length 1."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, features)
        self.second = nn.Linear(features, width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.first(features), negative_slope=0.1)
        return F.normalize(self.second(hidden), dim=1)


class MemoryBank:
    """Embeddings and probabilities of the last batches; the oldest rows are overwritten.

    Inputs:  rows that it holds, width of the embeddings, classes
    """

    def __init__(self, rows: int, width: int, classes: int, device: torch.device) -> None:
        self.embeddings = torch.zeros(rows, width, device=device)
        self.probabilities = torch.zeros(rows, classes, device=device)
        self.position = 0  # of the next row to be written
        self.filled = 0

    @property
    def is_full(self) -> bool:
        """Whether every row has been written."""
        return self.filled == len(self.embeddings)

    def add(self, embeddings: Tensor, probabilities: Tensor) -> None:
        """Write rows over the oldest ones, at most as many as the bank has."""
        rows, size = len(embeddings), len(self.embeddings)
        places = (torch.arange(rows, device=self.embeddings.device) + self.position) % size
        self.embeddings[places] = embeddings.detach().to(self.embeddings)
        self.probabilities[places] = probabilities.detach().to(self.probabilities)
        self.position = (self.position + rows) % size
        self.filled = min(size, self.filled + rows)

    def state(self) -> dict[str, Tensor | int]:
        """What `load` goes on from."""
        return {
            "embeddings": self.embeddings,
            "probabilities": self.probabilities,
            "position": self.position,
            "filled": self.filled,
        }

    def load(self, state: dict[str, Tensor | int]) -> None:
        """Go on from `state()`."""
        embeddings, probabilities = state["embeddings"], state["probabilities"]
        assert isinstance(embeddings, Tensor)
        assert isinstance(probabilities, Tensor)
        self.embeddings.copy_(embeddings)
        self.probabilities.copy_(probabilities)
        self.position, self.filled = int(state["position"]), int(state["filled"])


def smoothed(
    probabilities: Tensor,
    embeddings: Tensor,
    bank: MemoryBank,
    *,
    own_share: float,
    temperature: float,
) -> Tensor:
    """Probabilities (B, C), mixed with those of the clips in memory that look alike.

    own_share x p + (1 - own_share) x mean of the memory, weighted by softmax(cosine /
    temperature). With own_share 1, or a memory that is not full yet, p itself.
    """
    if own_share == 1 or not bank.is_full:
        return probabilities
    alike = (embeddings @ bank.embeddings.T / temperature).softmax(dim=1)
    return own_share * probabilities + (1 - own_share) * (alike @ bank.probabilities)


def label_graph(probabilities: Tensor, threshold: float) -> Tensor:
    """Which clips are alike (B, B): rows of sum 1.

    Two clips are joined by the product of their probabilities where it reaches the threshold,
    each with itself by 1. Above 1, nothing but the identity is left.
    """
    agreement = probabilities @ probabilities.T
    agreement = agreement * (agreement >= threshold)
    agreement.fill_diagonal_(1)
    return agreement / agreement.sum(dim=1, keepdim=True)


def contrast(first: Tensor, second: Tensor, graph: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the graph (B, B) and softmax(first . second / temperature).

    Inputs:  embeddings (B, D) of length 1 of two strong views of the same clips
    """
    similarity = (first @ second.T / temperature).log_softmax(dim=1)
    return -(graph * similarity).sum(dim=1).mean()
