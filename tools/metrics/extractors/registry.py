"""Extractors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tools.metrics.features import FeatureExtractor
from tools.metrics.weights import WeightsOptions


@dataclass(frozen=True)
class Request:
    """What an extractor is built from.

    Attributes:
        options  where weights may come from
        device   where the network runs
        frames   clip length of the extractors that take clips; the others ignore it
        metric   for whom, named in the error when weights are missing
    """

    options: WeightsOptions
    device: torch.device
    frames: int
    metric: str


def build_extractor(
    name: str,
    options: WeightsOptions,
    device: torch.device,
    frames: int = 16,
    metric: str = "",
) -> FeatureExtractor:
    """The extractor `name` with its weights loaded. See `Request`.

    Raises:
        MissingWeights  its weights are not there; says three ways to provide them
        ValueError      an unknown name, a wrong weights file, a clip length it cannot take, or a
                        package that is not installed; one line
    """
    if name not in BUILDERS:
        raise ValueError(f"no extractor {name!r}; known: {', '.join(extractor_names())}")
    return BUILDERS[name](Request(options, device, frames, metric or f"the {name} extractor"))


def extractor_names() -> list[str]:
    """Every name that `build_extractor` knows."""
    return list(BUILDERS)


def _untrained_clips(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.untrained import UntrainedExtractor

    return UntrainedExtractor(request.device, request.frames)


def _untrained_images(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.untrained import UntrainedExtractor

    return UntrainedExtractor(request.device, 1)


def _efficientnet_clips(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.efficientnet import EfficientNetExtractor

    return EfficientNetExtractor(request.device, request.frames)


def _efficientnet_images(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.efficientnet import EfficientNetExtractor

    return EfficientNetExtractor(request.device, 1)


BUILDERS: dict[str, Callable[[Request], FeatureExtractor]] = {
    "untrained-clips": _untrained_clips,
    "untrained-images": _untrained_images,
    "efficientnet-clips": _efficientnet_clips,
    "efficientnet-images": _efficientnet_images,
}
