"""Cameras for the frames of a clip: given, found by COLMAP, or one that stays where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tools.reconstruction.cameras import Cameras, fixed_cameras
from tools.reconstruction.judge import Limits, Verdict

Source = Literal["auto", "colmap", "given", "fixed"]


@dataclass(frozen=True)
class CameraOptions:
    """How cameras are found."""

    source: Source = "auto"
    poses: Path | None = None  # for source=given
    field_of_view: float = 90.0  # horizontal, degrees: start of COLMAP's search, or the fixed lens
    view_known: bool = False  # keep the field of view as it is
    depth: bool = False  # a source of depth exists, so a camera that stands still is of use
    judge: bool = True  # False: keep COLMAP's largest model whatever its figures
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    threads: int = -1  # of COLMAP; -1 all cores
    time_limit: float = 900.0  # seconds for each run of COLMAP


@dataclass(frozen=True)
class SparsePoints:
    """Points that several cameras see."""

    positions: Tensor  # (N, 3) float64, world
    colours: Tensor  # (N, 3) float32 in [0, 1]
    errors: Tensor  # (N,) mean reprojection error, pixels at the size that COLMAP saw


@dataclass(frozen=True)
class Found:
    """Cameras, None where there are none to go on with, and the reasons."""

    cameras: Cameras | None  # for frames of the given height and width
    points: SparsePoints
    verdict: Verdict


def no_points() -> SparsePoints:
    """No points at all."""
    return SparsePoints(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3), torch.zeros(0))


def find_cameras(
    frames: Tensor, masks: Tensor | None, options: CameraOptions, folder: Path
) -> Found:
    """Find the cameras of a clip.

    Args:
        frames: (F, H, W, 3) uint8.
        masks: (F, H, W) bool, True where a pixel may be used; None for all.
        options: where cameras come from.
        folder: for COLMAP's files; made if absent.

    Raises:
        ValueError: too few frames, or poses that do not belong to the clip.
    """
    count, height, width = frames.shape[:3]
    cameras = fixed_cameras(height, width, count, options.field_of_view)
    return Found(cameras, no_points(), Verdict(True, "fixed", {}, ("not searched yet",)))
