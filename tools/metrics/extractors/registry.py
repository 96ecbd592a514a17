"""Extractors by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tools.metrics.features import FeatureExtractor
from tools.metrics.weights import WeightsOptions, find_weights

# For whom an extractor works, where the caller does not say.
METRICS = {
    "i3d": "FVD",
    "c3d": "the video inception score",
    "inception": "FID, KID and IS",
    "dinov2": "FD-DINOv2",
    "videomae": "CD-FVD",
    "vjepa": "JEDi",
}


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
    return BUILDERS[name](Request(options, device, frames, metric or METRICS.get(name, name)))


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


def _i3d(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.torchscript import I3DExtractor

    weights = find_weights("i3d", request.options, request.metric)
    return I3DExtractor(request.device, request.frames, weights)


def _c3d(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.torchscript import C3DExtractor

    weights = find_weights("c3d", request.options, request.metric)
    return C3DExtractor(request.device, request.frames, weights)


def _inception(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.inception import InceptionExtractor

    weights = find_weights("inception", request.options, request.metric)
    return InceptionExtractor(request.device, weights)


def _dinov2(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.dinov2 import DinoV2Extractor

    weights = find_weights("dinov2", request.options, request.metric)
    return DinoV2Extractor(request.device, weights)


def _videomae(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.videomae import VideoMAEExtractor

    weights = find_weights("videomae", request.options, request.metric)
    return VideoMAEExtractor(request.device, request.frames, weights)


def _vjepa(request: Request) -> FeatureExtractor:
    from tools.metrics.extractors.vjepa import VJepaExtractor

    encoder, probe = (
        find_weights(name, request.options, request.metric) for name in ("vjepa", "vjepa-probe")
    )
    return VJepaExtractor(request.device, request.frames, encoder, probe)


BUILDERS: dict[str, Callable[[Request], FeatureExtractor]] = {
    "i3d": _i3d,
    "c3d": _c3d,
    "inception": _inception,
    "dinov2": _dinov2,
    "videomae": _videomae,
    "vjepa": _vjepa,
    "untrained-clips": _untrained_clips,
    "untrained-images": _untrained_images,
    "efficientnet-clips": _efficientnet_clips,
    "efficientnet-images": _efficientnet_images,
}
