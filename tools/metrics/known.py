"""How the features of a video are called in the cache."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datasets.sources import Source
from tools.metrics.cache import Cache, Identity, identity
from tools.metrics.features import FeatureExtractor
from tools.metrics.plan import Windows
from tools.metrics.protocol import Protocol

PREPARATION = 1  # raised when other pixels come from the same file and settings
PACKAGES = ("av", "numpy", "pillow", "torch")  # that decode and resize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What the features of one video depend on, but for the extractor.

    Attributes:
        identity  of the files that its frames are in, when they were hashed
        pixels    by the length of an input: contents of the files, frames, preparation
    """

    identity: Identity
    pixels: Mapping[int, Mapping[str, Any]]

    def key(self, extractor: FeatureExtractor, device: torch.device) -> dict[str, Any]:
        """The key of an extractor's features. Devices differ in the last digits."""
        return {
            **self.pixels[extractor.frames],
            "extractor": extractor.name,
            "fingerprint": extractor.fingerprint,
            "outputs": dict(extractor.outputs),
            "device": device.type,
        }

    def identity_of(self, source: Source, indices: Sequence[int]) -> Identity:
        """The identity of the files that some of the frames are in."""
        entries = {entry[0]: entry for entry in self.identity}
        return [entries[str(path)] for path in source.files(indices)]


def know(
    cache: Cache, protocol: Protocol, item: tuple[Source, Mapping[int, Windows]]
) -> tuple[str, Known]:
    """Name and `Known` of a source, given its windows by the length of an input.

    Raises:  ValueError, FileNotFoundError where a file changes meanwhile or is gone
    """
    source, windows = item
    frames = {each: sorted({k for w in found for k in w}) for each, found in windows.items()}
    files = source.files(sorted(set().union(*frames.values())))
    before = identity(files)
    contents = {each: cache.content_hash(source.files(k)) for each, k in frames.items()}
    if identity(files) != before:
        raise ValueError(f"{source.path}: it changed while it was read; run again")
    resized = protocol.frame_size > 0
    prepared = {
        "reader": type(source).__name__,
        "frame_size": protocol.frame_size,
        "resize": protocol.resize if resized else None,
        "antialias": protocol.antialias if resized else None,
        "preparation": PREPARATION,
        "packages": {name: _version(name) for name in PACKAGES},
    }
    pixels = {
        length: {
            **prepared,
            "content": contents[length],
            "frames": length,
            "stride": found[0][1] - found[0][0] if length > 1 else 1,
            "starts": [window[0] for window in found],
        }
        for length, found in windows.items()
    }
    return source.name, Known(before, pixels)


def load(
    cache: Cache, key: Mapping[str, Any], rows: int, extractor: FeatureExtractor
) -> dict[str, Tensor] | None:
    """Outputs from the cache; None where it has none, or none of the right shape."""
    outputs = cache.features(key)
    if outputs is None:
        return None
    shapes = {name: tuple(values.shape) for name, values in outputs.items()}
    if shapes != {name: (rows, width) for name, width in extractor.outputs.items()}:
        logger.warning("%s: computed again, since its cached features have other shapes", key)
        return None
    return outputs


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
