"""Weights of extractors: found, never assumed, and checked before anything opens them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class WeightsOptions:
    """Where weights may come from.

    Attributes:
        cache           folder of downloaded weights
        given           explicit files by extractor: {"i3d": Path("i3d_torchscript.pt")}
        allow_download  fetch what is not there
        trust           accept a file whose SHA-256 is not the known one; reports say "unverified"
    """

    cache: Path
    given: Mapping[str, Path] = field(default_factory=dict)
    allow_download: bool = False
    trust: bool = False


class MissingWeights(FileNotFoundError):
    """A metric's weights are not on this machine."""
