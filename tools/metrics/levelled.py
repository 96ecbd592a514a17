"""A search for copies must not be misled by what costs nothing: brightness, contrast, mirroring."""

from __future__ import annotations

import torch
from torch import Tensor

from tools.metrics.extractors.network import fingerprint
from tools.metrics.features import FeatureExtractor

MEAN, DEVIATION = 100.0, 45.0  # of every clip's pixels, in 0..255


class LevelledExtractor(FeatureExtractor):
    """Another extractor's features of clips brought to one brightness and contrast.

    One mean and one standard deviation for all pixels and colours of a clip, so that hues and
    changes in time stay. With `mirrored`, of the mirrored clips.
    """

    def __init__(self, extractor: FeatureExtractor, *, mirrored: bool = False) -> None:
        self.extractor = extractor
        self.mirrored = mirrored
        change = "levelled-mirrored" if mirrored else "levelled"
        self.name = f"{extractor.name}-{change}"
        self.frames = extractor.frames
        self.outputs = extractor.outputs
        self.comparable = False
        self.caveat = extractor.caveat
        self.fingerprint = fingerprint(f"{change} to {MEAN}, {DEVIATION}", extractor.fingerprint)
        self.provenance = extractor.provenance

    def __call__(self, videos: Tensor) -> dict[str, Tensor]:
        """(B, frames, 3, H, W) uint8 -> (B, width) float32 for each of `outputs`."""
        videos = levelled(videos)
        return self.extractor(videos.flip(-1).contiguous() if self.mirrored else videos)


def levelled(videos: Tensor) -> Tensor:
    """(B, F, 3, H, W) uint8 -> the same, each clip with one mean and standard deviation."""
    pixels = videos.float()
    over = (1, 2, 3, 4)
    mean = pixels.mean(dim=over, keepdim=True)
    deviation = pixels.std(dim=over, keepdim=True).clamp_min(1)
    return ((pixels - mean) / deviation * DEVIATION + MEAN).round().clamp(0, 255).to(torch.uint8)
