"""A scene as a cloud of 3D Gaussians: its parameters, and what they mean.

The parameters are those of 3D Gaussian splatting (Kerbl et al. 2023, arXiv 2308.04079), free of
bounds, in the layout that public viewers read: the exponential of a log-scale is a standard
deviation, the sigmoid of an opacity logit is an opacity, quaternions (w, x, y, z) need not have
length 1, and colour is 0.5 plus real spherical harmonics of the direction from the camera.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

HIGHEST_DEGREE = 3
DC = 0.5 / math.sqrt(math.pi)  # the harmonic of degree 0
NAMES = ("positions", "log_scales", "rotations", "opacity_logits", "harmonics")


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians; K = (degree + 1)² harmonics for each of red, green and blue."""

    positions: Tensor  # (N, 3) world
    log_scales: Tensor  # (N, 3)
    rotations: Tensor  # (N, 4) quaternions w, x, y, z of any length
    opacity_logits: Tensor  # (N,)
    harmonics: Tensor  # (N, K, 3)

    def __post_init__(self) -> None:
        count, terms = len(self.positions), self.harmonics.shape[1]
        if math.isqrt(terms) ** 2 != terms or not 1 <= terms <= (HIGHEST_DEGREE + 1) ** 2:
            raise ValueError(f"{terms} harmonics; there are 1, 4, 9 or 16, by degree 0 to 3")
        shapes = ((count, 3), (count, 3), (count, 4), (count,), (count, terms, 3))
        for name, shape in zip(NAMES, shapes, strict=True):
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"{name} of {count} Gaussians have shape {found}, not {shape}")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def degree(self) -> int:
        """Highest degree of the harmonics, 0 to 3."""
        return math.isqrt(self.harmonics.shape[1]) - 1

    @property
    def scales(self) -> Tensor:
        """Standard deviations (N, 3) along the axes of each Gaussian."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """Opacity of the middle of each Gaussian (N,), 0 to 1."""
        return self.opacity_logits.sigmoid()

    def axes(self) -> Tensor:
        """Axes (N, 3, 3) in the world, in columns, as long as the standard deviations."""
        return rotation_matrices(self.rotations) * self.scales[:, None]

    def covariances(self) -> Tensor:
        """Covariance matrices in the world (N, 3, 3)."""
        axes = self.axes()
        return axes @ axes.transpose(1, 2)

    def colours(self, eye: Tensor, degree: int | None = None) -> Tensor:
        """Colours (N, 3), at least 0, as seen from the place `eye` (3,).

        `degree` leaves out the harmonics above it.
        """
        degree = self.degree if degree is None else min(degree, self.degree)
        terms = (degree + 1) ** 2
        if terms == 1:
            return (DC * self.harmonics[:, 0] + 0.5).clamp(min=0)
        directions = functional.normalize(self.positions - eye.to(self.positions), dim=1)
        basis = harmonic_basis(directions, degree)
        return ((basis[..., None] * self.harmonics[:, :terms]).sum(1) + 0.5).clamp(min=0)

    def map(self, change: Callable[[Tensor], Tensor]) -> Gaussians:
        """The same function applied to each of the five tensors."""
        return Gaussians(*(change(getattr(self, name)) for name in NAMES))

    def chosen(self, which: Tensor) -> Gaussians:
        """The Gaussians that a mask (N,) or indices (M,) pick."""
        return self.map(lambda values: values[which])

    def detached(self) -> Gaussians:
        """Without gradients."""
        return self.map(Tensor.detach)

    def to(self, target: torch.device | torch.dtype | str) -> Gaussians:
        """On another device or with another number format."""
        return self.map(lambda values: values.to(target))

    def state(self) -> dict[str, Tensor]:
        """The five tensors by name."""
        return {name: getattr(self, name).detach().clone() for name in NAMES}


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Rotations (N, 3, 3) of quaternions (N, 4) in the order w, x, y, z, of any length but 0."""
    w, x, y, z = functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def harmonic_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics (N, (degree + 1)²) of unit directions (N, 3).

    Order and signs are those of 3D Gaussian splatting: within a degree l the order m = -l .. l,
    with the factor (-1)^m of Condon and Shortley.
    """
    x, y, z = directions.unbind(-1)
    parts = [torch.full_like(x, DC)]
    if degree >= 1:
        first = math.sqrt(3 / (4 * math.pi))
        parts += [-first * y, first * z, -first * x]
    if degree >= 2:
        second = math.sqrt(15 / (4 * math.pi))
        parts += [
            second * x * y,
            -second * y * z,
            second / math.sqrt(12) * (3 * z * z - 1),
            -second * x * z,
            second / 2 * (x * x - y * y),
        ]
    if degree >= 3:
        parts += [
            -math.sqrt(35 / (32 * math.pi)) * y * (3 * x * x - y * y),
            math.sqrt(105 / (4 * math.pi)) * x * y * z,
            -math.sqrt(21 / (32 * math.pi)) * y * (5 * z * z - 1),
            math.sqrt(7 / (16 * math.pi)) * z * (5 * z * z - 3),
            -math.sqrt(21 / (32 * math.pi)) * x * (5 * z * z - 1),
            math.sqrt(105 / (16 * math.pi)) * z * (x * x - y * y),
            -math.sqrt(35 / (32 * math.pi)) * x * (x * x - 3 * y * y),
        ]
    return torch.stack(parts, -1)


def colour_to_harmonic(colours: Tensor) -> Tensor:
    """The harmonic of degree 0 (..., 3) that gives a colour (..., 3) from all sides."""
    return (colours - 0.5) / DC
