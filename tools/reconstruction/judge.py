"""Whether cameras that COLMAP found can be trusted.

COLMAP reports success for a still camera before moving tissue, with invented poses, so its word is
not enough. `judge` compares the figures of a model with limits; all figures are kept, whichever
way it went, because the limits come from few clips and may have to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["given", "colmap", "fixed", "refused"]


@dataclass(frozen=True)
class Limits:
    """What a clip and a model must reach."""

    motion: float = 0.03  # median motion of verified matches, as a share of the width
    frames_share: float = 0.8
    frames: int = 8
    points: int = 100
    track: float = 3.0  # mean number of frames that see a point
    reprojection: float = 0.7  # pixels at the size that COLMAP saw
    view: tuple[float, float] = (40.0, 150.0)  # degrees, when it was free
    angle: float = 2.0  # degrees, median over points of the widest angle between their rays


@dataclass(frozen=True)
class Verdict:
    """What is known about a clip's cameras and what follows."""

    accepted: bool  # there are cameras to go on with
    kind: Kind
    figures: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()  # why refused, or why fixed
    advice: str = ""

    @property
    def text(self) -> str:
        """Reasons and advice in one line."""
        return " ".join(part for part in ("; ".join(self.reasons), self.advice) if part)
