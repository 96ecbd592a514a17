"""How long and how strongly Gaussians are fitted to a clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tools.reconstruction.splatting.deformation import DeformationSettings
from tools.reconstruction.splatting.growth import GrowthSettings
from tools.reconstruction.splatting.rasterise import Backend

Scene = Literal["auto", "rigid", "dynamic"]


@dataclass
class Rates:
    """Learning rates of Adam; pairs fall exponentially over a stage, from the first to the last.

    Higher than published (positions 1.6e-4, scales 5e-3, harmonics 2.5e-3 and 1.25e-4, network
    1.6e-3), because hundreds of steps have to do on a CPU what thousands do
    there.
    """

    positions: float = 1e-3  # scene extents
    positions_end: float = 1e-5
    log_scales: float = 1e-2
    rotations: float = 1e-3
    opacity_logits: float = 0.05
    base: float = 5e-3  # harmonic of degree 0
    detail: float = 5e-4  # the others
    network: float = 1e-2  # of the deformation
    network_end: float = 1e-3
    planes: float = 2e-2
    planes_end: float = 2e-3


@dataclass
class Weights:
    """Weights of the losses beside that of colour, which has 1."""

    structure: float = 0.2  # (1 - SSIM) / 2, the colour then has 1 less this
    depth: float = 0.5  # inverse depth in units of the median
    pattern: float = 0.01  # 1 - correlation, for depth without a unit
    roughness: float = 1e-3  # of the deformation in time
    variation: float = 0.03  # of the picture where no frame sees, for one camera


@dataclass
class FitSettings:
    """How long and how strongly to fit."""

    scene: Scene = "auto"  # auto: dynamic for one camera, or below `rigid_enough` at half-time
    rigid_steps: int = 1000
    dynamic_steps: int = 3000
    rigid_enough: float = 25.0  # dB of the training frames
    degree: int = 3  # of the harmonics
    degree_every: int = 500  # steps from one degree to the next
    backend: Backend = "auto"
    rates: Rates = field(default_factory=Rates)
    weights: Weights = field(default_factory=Weights)
    growth: GrowthSettings = field(default_factory=GrowthSettings)
    deformation: DeformationSettings = field(default_factory=DeformationSettings)

    def __post_init__(self) -> None:
        if self.rigid_steps < 1 or self.dynamic_steps < 0:
            raise ValueError(
                f"fit: rigid_steps must be 1 or more and dynamic_steps 0 or more, got "
                f"{self.rigid_steps} and {self.dynamic_steps}"
            )
        if not 0 <= self.degree <= 3 or self.degree_every < 1:
            raise ValueError(f"fit.degree is {self.degree}; harmonics have degrees 0 to 3")
