"""A small classifier for a CPU: an image network with ImageNet weights looks at each frame.

Its features are averaged, and their largest values taken, over places and frames: a polyp that is
small, or shows in one frame only, still counts. A transformer of random weights learns nothing
from tens of clips; this network learns from ten of each class in a minute.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.priors.weights import timm_model
from tools.diagnosis.augment import DEVIATION, MEAN
from tools.diagnosis.classifier import VideoClassifier, check_clips

LITE = "lite"  # the word for it in settings
NAME = "tf_efficientnet_lite0"
PACKAGE = "package"  # the word for its weights, which come with a Python package
STAGES = 5  # of 7: to a sixteenth of the size, a cell of which a polyp of 64 x 64 pixels fills
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEAD_DEVIATION = 0.01  # of the weights that the classifier begins with


@dataclass(frozen=True)
class FrameSizes:
    """Of the features, and how many stages lie before them."""

    width: int
    depth: int


class FrameClassifier(nn.Module):
    """Logits of the classes of a clip, from frames normalised by `augment.normalise`.

    The statistics of its batch norms are those of ImageNet and stay so: batches are small.

    Inputs:  frames T and image_size S of the clips; weights "package", a file of timm's weights,
             or None: random ones
    `tensors` is how many tensors the image network has, `checksum` the SHA-256 of those that it
    begins with, None of random ones.
    Raises:  FileNotFoundError, ValueError for sizes and weights that cannot be used
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, *, frames: int = 8, image_size: int = 64, classes: int = 2, weights: str | None = None
    ) -> None:
        super().__init__()
        if frames < 1 or image_size < 16:
            raise ValueError(
                f"network.size=lite: frames of 16 pixels or more and at least one, got {frames} of "
                f"{image_size}"
            )
        self.frames, self.image_size = frames, image_size
        model = _image_network(weights)
        self.stem = nn.Sequential(model.conv_stem, model.bn1)
        self.blocks = nn.ModuleList(list(model.blocks)[:STAGES])
        self.tensors = len(self.state_dict())
        self.checksum = _checksum(self) if weights else None
        # From our normalisation to that of the weights.
        shift = (torch.tensor(IMAGENET_MEAN) - MEAN) / DEVIATION
        scale = torch.tensor(IMAGENET_DEVIATION) / DEVIATION
        self.register_buffer("mean", shift[:, None, None], persistent=False)
        self.register_buffer("deviation", scale[:, None, None], persistent=False)
        with torch.no_grad():
            channels = self.eval()._maps(torch.zeros(1, 3, image_size, image_size)).shape[1]
        self.sizes = FrameSizes(width=2 * channels, depth=STAGES)
        self.norm = nn.LayerNorm(2 * channels)
        self.head = nn.Linear(2 * channels, classes)
        nn.init.normal_(self.head.weight, std=HEAD_DEVIATION)
        nn.init.zeros_(self.head.bias)
        self.train()

    def forward(self, videos: Tensor) -> Tensor:
        """(B, T, 3, S, S) float -> logits (B, classes)."""
        return self.head(self.features(videos))

    def features(self, videos: Tensor) -> Tensor:
        """(B, T, 3, S, S) float -> what the classifier sees (B, D).

        Raises:  ValueError for clips of another shape
        """
        check_clips(videos, self.frames, self.image_size)
        maps = self._maps((videos.flatten(0, 1) - self.mean) / self.deviation)
        maps = maps.unflatten(0, videos.shape[:2])
        return self.norm(torch.cat([maps.mean((1, 3, 4)), maps.amax((1, 3, 4))], dim=1))

    def train(self, mode: bool = True) -> FrameClassifier:
        """Training mode; batch norms keep the statistics that they have."""
        super().train(mode)
        self.stem.eval()
        self.blocks.eval()
        return self

    def layer_of(self, name: str) -> int:
        """How deep a parameter lies: 0 the stem, k + 1 stage k, depth + 1 norm and head.

        Raises:  ValueError for a name that is no parameter's
        """
        if match := re.match(r"blocks\.(\d+)\.", name):
            return int(match[1]) + 1
        if name.startswith(("head.", "norm.")):
            return self.sizes.depth + 1
        if name.startswith("stem."):
            return 0
        raise ValueError(f"{name}: no parameter of the classifier")

    def _maps(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) as ImageNet's statistics want them -> (N, C, S / 16, S / 16)."""
        x = self.stem(images)
        for stage in self.blocks:
            x = stage(x)
        return x


def _image_network(weights: str | None) -> Any:
    try:
        return timm_model(NAME, weights or "untrained")
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(str(error).replace("method.prior.weights", "network.weights")) from None


def _checksum(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


Classifier = VideoClassifier | FrameClassifier
