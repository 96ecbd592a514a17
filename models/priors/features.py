"""Frozen image models whose features guide the denoiser: DINO, or any timm/torchvision model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.priors import weights as prior_weights


@dataclass
class PriorConfig:
    """Settings of the prior guidance (Endora, section 2.3)."""

    weight: float = 0.5  # of the guidance loss; 0 builds no prior and no head
    name: str = "vit_small_patch8_224.dino"  # a timm model, or torchvision:NAME
    weights: str | None = None  # none: timm's own download; a file; `package`; `untrained`
    layers: list[int] = field(default_factory=lambda: [2, 5, 8, 11])  # of the prior, from 0
    pairs: list[int] = field(default_factory=lambda: [2, 5, 8, 11])  # of the denoiser, from 0
    loss: Literal["pearson", "cosine"] = "pearson"
    normalize: Literal["imagenet", "none"] = "imagenet"  # none: [-1, 1] pixels as the reference
    projection_width: int | None = None  # pearson: channels of the projection; none: D
    until_step: int = 0  # guide only before this training step (HASTE); 0: always

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"method.prior.weight: 0 or more, got {self.weight}")
        if self.weight and (not self.layers or len(self.layers) != len(self.pairs)):
            raise ValueError(
                f"method.prior.layers and method.prior.pairs: one pair for each layer, "
                f"got {self.layers} and {self.pairs}"
            )


class PriorFeatures(nn.Module):
    """Feature maps of a frozen image model at some of its layers.

    For a vision transformer a layer is a block, whose patch tokens pass the final norm; for a
    convolutional network a layer is a stage. The class token is dropped.

    Input:   frames (..., 3, H, W) in [-1, 1]
    Output:  one (..., E, h, w) per layer, float32
    `grids` holds (E, h, w) of each layer.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: PriorConfig, size: int) -> None:
        super().__init__()
        self.extract = _extractor(config, size)
        mean, deviation = self.extract.statistics
        if config.normalize == "none":
            mean, deviation = [0.5] * 3, [0.5] * 3
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, size, size))
        if any(each.shape[2] != each.shape[3] for each in maps):
            raise ValueError(
                f"method.prior.name: {config.name} keeps channels last, so its features are no "
                f"maps (E, h, w); choose another network"
            )
        self.grids = [(each.shape[1], each.shape[2], each.shape[3]) for each in maps]

    @torch.no_grad()
    def forward(self, frames: Tensor) -> list[Tensor]:
        images = ((frames + 1) / 2 - self.mean) / self.deviation
        maps = self.extract(images.flatten(0, -4))
        return [each.float().unflatten(0, frames.shape[:-3]) for each in maps]

    def train(self, mode: bool = True) -> PriorFeatures:
        """A frozen prior stays in evaluation mode."""
        return super().train(False)


def prior_grids(config: PriorConfig, size: int) -> list[tuple[int, int, int]]:
    """(E, h, w) of each layer for frames of `size` pixels; needs no weights."""
    return PriorFeatures(dataclasses.replace(config, weights="untrained"), size).grids


def prior_files(config: PriorConfig) -> list[Path]:
    """The local file that the weights are read from, where there is one on this machine."""
    try:
        files = prior_weights.weight_files(config.name, config.weights)
    except FileNotFoundError:
        return []
    return [file for file in files if file.is_file()]


class _TransformerExtractor(nn.Module):
    """Patch tokens of a timm vision transformer, through its final norm."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.model, self.layers = model, list(layers)
        if not set(self.layers) <= set(range(len(model.blocks))):
            raise ValueError(
                f"method.prior.layers: this prior has blocks 0..{len(model.blocks) - 1}, "
                f"got {self.layers}"
            )
        self.statistics = _statistics(model)

    def forward(self, images: Tensor) -> list[Tensor]:
        ascending = sorted(set(self.layers))
        maps = self.model.forward_intermediates(
            images, indices=ascending, norm=True, intermediates_only=True
        )
        return [maps[ascending.index(layer)] for layer in self.layers]


class _StageExtractor(nn.Module):
    """Outputs of the stages of a convolutional network, a list of modules run in turn."""

    def __init__(self, stages: Sequence[nn.Module], layers: Sequence[int], statistics: Any) -> None:
        super().__init__()
        if not set(layers) <= set(range(len(stages))):
            raise ValueError(
                f"method.prior.layers: this prior has stages 0..{len(stages) - 1}, "
                f"got {list(layers)}"
            )
        self.stages = nn.ModuleList(stages[: max(layers) + 1])
        self.layers = list(layers)
        self.statistics = statistics

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.stages:
            images = stage(images)
            outputs.append(images)
        return [outputs[layer] for layer in self.layers]


def _extractor(config: PriorConfig, size: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # an untrained prior is the same in every run
        if config.name.startswith("torchvision:"):
            return _torchvision_extractor(config)
        return _timm_extractor(config, size)


def _timm_extractor(config: PriorConfig, size: int) -> Any:
    import timm

    if not timm.is_model(config.name.split(".")[0]):
        close = timm.list_models(f"*{config.name.split('.')[0].split('_')[0]}*")[:3]
        raise ValueError(
            f"method.prior.name: timm knows no {config.name!r}; close: {', '.join(close) or 'none'}"
        )
    native = prior_weights.timm_model(config.name, config.weights)
    if hasattr(native, "blocks") and hasattr(native, "patch_embed"):
        return _TransformerExtractor(_at_size(native, config.name, size), config.layers)
    return _StageExtractor(_timm_stages(native), config.layers, _statistics(native))


def _at_size(native: Any, name: str, size: int) -> Any:
    """The same transformer for frames of `size` pixels, its position table interpolated."""
    import timm

    if native.patch_embed.img_size == (size, size):
        return native
    model: Any = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
    state = native.state_dict()
    state["pos_embed"] = resized_positions(
        state["pos_embed"], native.patch_embed.grid_size, model.patch_embed.grid_size
    )
    model.load_state_dict(state)
    return model


def resized_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A ViT's position table (1, tokens, E) for another patch grid, as DINO does it: bicubic
    without antialiasing; class and register tokens keep theirs."""
    extra = table.shape[1] - old[0] * old[1]
    grid = table[:, extra:].transpose(1, 2).unflatten(2, old)
    # DINO adds 0.1 to the size before it divides, which moves the sampling points a little.
    factor = [(after + 0.1) / before for before, after in zip(old, new, strict=True)]
    resized = F.interpolate(grid, scale_factor=factor, mode="bicubic").flatten(2).transpose(1, 2)
    return torch.cat([table[:, :extra], resized], dim=1)


def _timm_stages(model: Any) -> list[nn.Module]:
    """Stem and stages of a timm convolutional network; layer 0 is the stem."""
    children = dict(model.named_children())
    for stem, body in ((("conv_stem", "bn1"), "blocks"), (("stem",), "stages")):
        if body in children and all(name in children for name in stem):
            first = nn.Sequential(*(children[name] for name in stem))
            return [first, *children[body]]
    if "layer1" in children:
        stem_names = [name for name in ("conv1", "bn1", "act1", "maxpool") if name in children]
        first = nn.Sequential(*(children[name] for name in stem_names))
        return [first, *(children[f"layer{k}"] for k in range(1, 5))]
    raise ValueError(
        f"method.prior.name: the stages of a timm {type(model).__name__} are not known; "
        f"choose a ViT, EfficientNet, MobileNet, ResNet or ConvNeXt"
    )


def _torchvision_extractor(config: PriorConfig) -> Any:
    model = prior_weights.torchvision_model(config.name.partition(":")[2], config.weights)
    children = dict(model.named_children())
    statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    if "features" in children:
        return _StageExtractor(list(children["features"]), config.layers, statistics)
    if "layer1" in children:
        stem = nn.Sequential(*(children[k] for k in ("conv1", "bn1", "relu", "maxpool")))
        stages = [stem, *(children[f"layer{k}"] for k in range(1, 5))]
        return _StageExtractor(stages, config.layers, statistics)
    raise ValueError(f"method.prior.name: {config.name} has no spatial stages")


def _statistics(model: Any) -> tuple[list[float], list[float]]:
    """Mean and deviation of the pixels (0..1) that a timm model was trained on."""
    config = model.pretrained_cfg
    return list(config["mean"]), list(config["std"])
