"""A control: the same features of clips whose motion was taken away."""

from __future__ import annotations

from torch import Tensor

from tools.metrics.extractors.network import fingerprint
from tools.metrics.features import FeatureExtractor


class FrozenExtractor(FeatureExtractor):
    """Another extractor's features of clips that stand still at their first frame."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self.name = frozen_name(extractor.name)
        self.frames = extractor.frames
        self.outputs = extractor.outputs
        self.comparable = extractor.comparable
        self.caveat = extractor.caveat
        self.fingerprint = fingerprint("frozen at the first frame", extractor.fingerprint)
        self.provenance = extractor.provenance

    def __call__(self, videos: Tensor) -> dict[str, Tensor]:
        """(B, frames, 3, H, W) uint8 -> (B, width) float32 for each of `outputs`."""
        return self.extractor(videos[:, :1].expand_as(videos).contiguous())


def frozen_name(name: str) -> str:
    """The name of the frozen form of an extractor."""
    return f"{name}-frozen"
