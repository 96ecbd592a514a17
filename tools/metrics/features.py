"""What an extractor is, and the features of one set of videos."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class FeatureExtractor(ABC):
    """A frozen network that turns pixels into vectors.

    Extractors scale and resize by themselves: the protocol decides the frame size before, the
    extractor what its network wants after.

    Attributes:
        name         as it stands in every output, with its version: "i3d", "untrained-v1-clips"
        frames       frames of one input: the clip length, or 1 for single images
        outputs      width of every output by its name; "features" always, "logits" where the
                     network classifies
        comparable   whether its scores may be set beside published ones
        caveat       the sentence that has to stand beside every score made with it, or ""
        fingerprint  SHA-256 over weights and code version: another value, other features
        provenance   file, sha256, verified, source and licence of the weights, for the report
    """

    name: str
    frames: int
    outputs: Mapping[str, int]
    comparable: bool
    caveat: str = ""
    fingerprint: str
    provenance: Mapping[str, Any]

    @abstractmethod
    def __call__(self, videos: Tensor) -> dict[str, Tensor]:
        """(B, frames, 3, H, W) uint8 -> (B, width) float32 for each of `outputs`."""


@dataclass(frozen=True)
class Features:
    """The outputs of one extractor for one set of videos.

    Attributes:
        outputs  (N, width) float32 on the CPU by output name; rows ordered by video, and within a
                 video by time
        groups   (N,) int64: the video that each row comes from, ascending, an index into `videos`
        videos   names of the videos, in natural order
        windows  the frame indices of the source video behind each row
    """

    outputs: Mapping[str, Tensor]
    groups: Tensor
    videos: Sequence[str]
    windows: Sequence[Sequence[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def values(self) -> Tensor:
        """The output that distances are measured in, (N, width)."""
        return self.outputs["features"]

    def of_videos(self, chosen: Sequence[int]) -> Features:
        """The rows of some videos, in their old order."""
        kept = torch.isin(self.groups, torch.as_tensor(sorted(chosen), dtype=torch.int64))
        rows = kept.nonzero().flatten()
        _, groups = torch.unique(self.groups[rows], return_inverse=True)
        return Features(
            outputs={name: values[rows] for name, values in self.outputs.items()},
            groups=groups,
            videos=[self.videos[k] for k in sorted(chosen)],
            windows=[self.windows[k] for k in rows.tolist()] if self.windows else [],
        )
