"""Fitting Gaussians to a clip with known cameras, in two stages: rigid, then deforming in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tools.reconstruction.cameras import Camera, Cameras
from tools.reconstruction.gaussians import NAMES, Gaussians
from tools.reconstruction.rasterise import Backend, Render, rasterise

Scene = Literal["auto", "rigid", "dynamic"]


@dataclass
class FitSettings:
    """How long and how strongly to fit."""

    scene: Scene = "auto"  # auto: dynamic if the rigid stage stays below `rigid_enough`
    rigid_steps: int = 1000
    dynamic_steps: int = 3000
    rigid_enough: float = 25.0  # dB of the training frames
    backend: Backend = "auto"


@dataclass(frozen=True)
class Points:
    """Coloured points that a fit starts from."""

    positions: Tensor  # (N, 3) world
    colours: Tensor  # (N, 3) 0 to 1

    def __len__(self) -> int:
        return len(self.positions)


class Fit:
    """A scene on its way from initial points to a clip; call `step` until `done`.

    Args:
        frames: (F, H, W, 3) uint8, or float from 0 to 1.
        masks: (F, H, W) True where a pixel counts; None for everywhere.
        cameras: one pose per frame, in the order of the frames, at the size of the frames.
        times: (F,) from -1 to 1.
        depth: (F, H, W) z in the unit of the cameras, 0 where unknown; None for none.
        points: where the Gaussians begin.
        settings: how long and how strongly.
        seed: of all that is drawn.
        train: indices of the frames to fit; None for all. The others are never looked at.
        depth_is_metric: whether depth is in the unit of the cameras; else only its pattern counts.
        device: where to compute.
    """

    def __init__(
        self,
        frames: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        times: Tensor,
        depth: Tensor | None,
        points: Points,
        settings: FitSettings,
        seed: int = 0,
        *,
        train: Sequence[int] | None = None,
        depth_is_metric: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        raise NotImplementedError

    @property
    def steps_done(self) -> int:
        """Steps taken."""
        raise NotImplementedError

    @property
    def steps_total(self) -> int:
        """Steps of the whole fit; falls when `auto` decides for a rigid scene."""
        raise NotImplementedError

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.steps_done >= self.steps_total

    @property
    def scene(self) -> Scene:
        """`rigid` or `dynamic`; `auto` before that is decided."""
        raise NotImplementedError

    def step(self) -> dict[str, float]:
        """One step; its losses by name (`loss`, `colour`, `depth` ...) and `gaussians`."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the fit depends on: tensors and plain values."""
        raise NotImplementedError

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state; what follows is bit for bit what would have followed.

        Raises:
            ValueError: the state is of another fit.
        """
        raise NotImplementedError

    def gaussians(self, time: float = 0.0) -> Gaussians:
        """The scene at a time, -1 to 1, without gradients."""
        raise NotImplementedError

    def render(self, camera: Camera, time: float = 0.0) -> Render:
        """The scene at a time through a camera, without gradients."""
        raise NotImplementedError


__all__ = ["NAMES", "Fit", "FitSettings", "Points", "Scene", "rasterise"]
