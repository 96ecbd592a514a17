"""How a scene changes in time: a field of offsets over space and time.

The field factors its features over the six planes of the pairs of (x, y, z, t) (HexPlane, Cao and
Johnson 2023, arXiv 2301.09632; for Gaussians Wu et al. 2023, arXiv 2310.08528):

    f(p, t) = concatenation over resolutions of  prod_{six planes} plane(p, t)

A small network turns features into offsets of position, log-scale, quaternion and opacity. Its
last layers begin at zero, so a new field leaves the scene as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.reconstruction.splatting.gaussians import Gaussians

PAIRS = tuple(combinations(range(4), 2))  # of x, y, z, t; t is 3
SWING = 0.5  # of the features in time at the start
OUTPUTS = {"positions": 3, "log_scales": 3, "rotations": 4, "opacity_logits": 1}


@dataclass
class DeformationSettings:
    """Size of the field."""

    resolution: int = 32  # cells along each side of the scene, at the coarsest level
    multipliers: tuple[int, ...] = (1, 2)  # of the resolution; time keeps its own
    time_resolution: int = 25
    channels: int = 16
    width: int = 32  # of the network
    opacity: bool = True  # whether opacity may change in time

    def __post_init__(self) -> None:
        for name in ("resolution", "time_resolution"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} of the deformation is {getattr(self, name)}, below 2")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError("multipliers of the deformation must be 1 or more, at least one")
        if min(self.channels, self.width) < 1:
            raise ValueError("channels and width of the deformation must be 1 or more")


class Deformation(nn.Module):
    """Moves, stretches and turns Gaussians as a function of the time.

    Args:
        settings: its size.
        low: (3,) corner of the box of the scene with the smallest coordinates.
        high: (3,) the opposite one. Outside, the field goes on as on its surface.
        unit: length that an output of 1 moves a Gaussian by.
        generator: draws the start.
    """

    middle: Tensor
    reach: Tensor
    unit: Tensor

    def __init__(
        self,
        settings: DeformationSettings,
        low: Tensor,
        high: Tensor,
        unit: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("middle", ((low + high) / 2).float())
        self.register_buffer("reach", ((high - low) / 2).clamp(min=1e-6).float())
        self.register_buffer("unit", torch.tensor(float(unit)))
        self.levels = len(settings.multipliers)
        self.planes = nn.ParameterList()
        for multiplier in settings.multipliers:
            for pair in PAIRS:
                self.planes.append(_new_plane(settings, multiplier, pair, generator))
        outputs = [name for name in OUTPUTS if settings.opacity or name != "opacity_logits"]
        features = settings.channels * self.levels
        self.trunk = nn.Linear(features, settings.width)
        self.heads = nn.ModuleDict({name: _head(settings.width, name) for name in outputs})
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        for head in self.heads.values():
            assert isinstance(head, nn.Sequential)
            last = head[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)

    def features(self, positions: Tensor, time: float) -> Tensor:
        """Features (N, D) at positions (N, 3) and a time from -1 to 1."""
        places = (positions - self.middle) / self.reach
        places = torch.cat([places, torch.full_like(places[:, :1], time)], 1)
        grids = torch.stack([places[:, list(pair)] for pair in PAIRS])[:, None]  # (6, 1, N, 2)
        found = [
            functional.grid_sample(
                plane[None], grid[None], padding_mode="border", align_corners=True
            )[0, :, 0]
            for plane, grid in zip(self.planes, [*grids] * self.levels, strict=True)
        ]
        product = [
            reduce(torch.mul, found[first : first + len(PAIRS)])
            for first in range(0, len(found), len(PAIRS))
        ]
        return torch.cat(product).T

    def forward(self, gaussians: Gaussians, time: float) -> Gaussians:
        """The scene at a time from -1 to 1."""
        hidden = self.trunk(self.features(gaussians.positions, time))
        moved = {}
        for name, head in self.heads.items():
            offset = head(hidden)
            if name == "positions":
                offset = offset * self.unit
            moved[name] = getattr(gaussians, name) + offset.reshape(getattr(gaussians, name).shape)
        return replace(gaussians, **moved)

    def roughness(self) -> Tensor:
        """Mean squared second difference in time of the planes that have time."""
        parts = [
            (plane[:, 2:] - 2 * plane[:, 1:-1] + plane[:, :-2]).square().mean()
            for plane, pair in zip(self.planes, PAIRS * self.levels, strict=True)
            if pair[1] == 3 and plane.shape[1] > 2
        ]
        return torch.stack(parts).mean() if parts else self.trunk.bias.sum() * 0


def _new_plane(
    settings: DeformationSettings,
    multiplier: int,
    pair: tuple[int, int],
    generator: torch.Generator | None,
) -> nn.Parameter:
    """(C, rows, columns): the first axis of the pair along the columns, time along the rows."""
    side = settings.resolution * multiplier
    if pair[1] == 3:
        # Slow waves: were the features the same at all times, heads that begin at zero would have
        # no reason to leave it, because motion to and fro pulls them both ways equally.
        time = torch.linspace(-1, 1, settings.time_resolution)[:, None]
        speed, phase = torch.rand(2, settings.channels, 1, 1, generator=generator)
        waves = torch.sin(math.pi * (2 * speed * time + 2 * phase))
        return nn.Parameter((1 + SWING * waves).repeat(1, 1, side))
    plane = torch.rand(settings.channels, side, side, generator=generator)
    # About 1, so that the product over planes is too, and the heads learn fast from zero.
    return nn.Parameter(0.5 + plane)


def _head(width: int, name: str) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, OUTPUTS[name])
    )
