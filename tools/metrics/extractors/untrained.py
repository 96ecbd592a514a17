"""A fixed random 3-D network: shows that a pipeline works, without any weights file.

Its distances grow with noise, blur, shuffled or frozen frames and colour shifts, so it tells a
broken pipeline from a working one, and nothing more. Changing anything here makes it version 2.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.metrics.extractors.network import NetworkExtractor, fingerprint, resized, state_digest

VERSION = "untrained-v1"
CAVEAT = "untrained features - not comparable with published numbers"
SEED = 20_240_311
SIZE = 48  # pixels of a side
CHANNELS = (32, 64, 128)
STRIDES = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
CLASSES = 10
FEATURES = 3 * sum(CHANNELS)


class UntrainedExtractor(NetworkExtractor):
    """672 statistics of three random convolutions over (time, height, width), and 10 "logits".

    Per channel of every layer: the mean, the standard deviation, and the mean absolute difference
    of neighbouring time steps, which is 0 where a single step is left. `frames` 1 makes it an
    image extractor.
    """

    comparable = False
    caveat = CAVEAT

    def __init__(self, device: torch.device, frames: int) -> None:
        super().__init__(device)
        self.name = f"{VERSION}-{'images' if frames == 1 else 'clips'}"
        self.frames = frames
        self.outputs = {"features": FEATURES, "logits": CLASSES}
        self.network = _UntrainedNetwork()
        digest = state_digest(self.network.state_dict())
        self.fingerprint = fingerprint(self.name, str(frames), digest)
        self.network.to(device).eval().requires_grad_(False)
        self.provenance = {
            "file": f"none: drawn from seed {SEED}",
            "sha256": digest,
            "verified": True,
            "source": "none",
            "licence": "none",
        }

    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        frames = resized(videos.flatten(0, 1).float(), SIZE, "bilinear") / 127.5 - 1
        clips = frames.unflatten(0, videos.shape[:2]).transpose(1, 2)
        features, logits = self.network(clips)
        return {"features": features, "logits": logits}


class _UntrainedNetwork(nn.Module):
    """(B, 3, T, 48, 48) in [-1, 1] -> (B, 672), (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator("cpu").manual_seed(SEED)
        widths = (3, *CHANNELS)
        self.layers = nn.ParameterList(
            _normal((after, before, 3, 3, 3), 2 / (27 * before), generator)
            for before, after in itertools.pairwise(widths)
        )
        self.classes = nn.Parameter(_normal((CLASSES, FEATURES), 2 / FEATURES, generator))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        statistics = []
        for weight, stride in zip(self.layers, STRIDES, strict=True):
            clips = F.leaky_relu(F.conv3d(clips, weight, stride=stride, padding=1), 0.1)
            statistics += [
                clips.mean((2, 3, 4)),
                clips.std((2, 3, 4), correction=0),
                _change(clips),
            ]
        features = torch.cat(statistics, dim=1)
        return features, features @ self.classes.T


def _change(clips: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring time steps, (B, C, T, H, W) -> (B, C)."""
    if clips.shape[2] == 1:
        return clips.new_zeros(clips.shape[:2])
    return clips.diff(dim=2).abs().mean((2, 3, 4))


def _normal(shape: tuple[int, ...], variance: float, generator: torch.Generator) -> Tensor:
    # Drawn in float64, where the machines' logarithms differ far below a float32's last digit.
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * variance**0.5).float()
