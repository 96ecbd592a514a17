"""Hollow organs for the simulator: a bent tube with folds, texture and perhaps a lesion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from datasets.simulator_render import REACH, ChartPoint, Rod, Table, Wall
from datasets.simulator_textures import Grid, blur, normalised, smooth_noise, specks, vessel_tree

START, END = -90.0, 250.0  # millimetres along the axis; the tube is closed at both ends
CELLS = (850, 256)  # rows along, columns around
TEXTURE_CELLS = (1024, 512)
FAR = 400.0  # millimetres


@dataclass(frozen=True)
class Wave:
    """A sum of sines in the two directions across the axis, millimetres over millimetres."""

    amplitude: NDArray[np.float64]  # (2, K)
    rate: NDArray[np.float64]  # (2, K) radians per millimetre or second
    phase: NDArray[np.float64]  # (2, K)

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        amplitude: tuple[float, float],
        period: tuple[float, float],
        terms: int = 2,
    ) -> Wave:
        """Draw terms with amplitudes and periods from the two ranges."""
        return cls(
            rng.uniform(*amplitude, (2, terms)) / np.arange(1, terms + 1) ** 0.7,
            2 * np.pi / rng.uniform(*period, (2, terms)) * np.arange(1, terms + 1) ** 0.8,
            rng.uniform(0, 2 * np.pi, (2, terms)),
        )

    def at(self, where: float) -> NDArray[np.float64]:
        """The two sums (2,) at one place or moment."""
        return (self.amplitude * np.sin(self.rate * where + self.phase)).sum(1)

    def along(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Both sums, each (N,), at the places (N,)."""
        first, second = (
            sum(
                float(a) * torch.sin(where * float(r) + float(p))
                for a, r, p in zip(amplitude, rate, phase, strict=True)
            )
            for amplitude, rate, phase in zip(self.amplitude, self.rate, self.phase, strict=True)
        )
        return torch.as_tensor(first), torch.as_tensor(second)

    def slopes(self) -> Wave:
        """The wave whose sums are the slopes of this one."""
        return Wave(self.amplitude * self.rate, self.rate, self.phase + np.pi / 2)


@dataclass(frozen=True)
class Tube:
    """Chart around a centreline that is a graph over z: u = z, v = angle, radius from the line."""

    centre: Wave

    def locate(self, points: Tensor) -> ChartPoint:
        """Chart coordinates of points (3, N)."""
        x, y = self._across(points)
        return ChartPoint(points[2], torch.atan2(y, x) % (2 * np.pi), (x * x + y * y).sqrt())

    def gradient(self, points: Tensor, along_u: Tensor, along_v: Tensor) -> Tensor:
        """Gradient (3, N) of height minus radius."""
        x, y = self._across(points)
        slope_x, slope_y = self.centre.slopes().along(points[2])
        radius = (x * x + y * y).sqrt().clamp(min=1e-3)
        out_x, out_y = x / radius, y / radius
        turn = along_v / radius  # slope of the height around the tube, per millimetre
        radial = out_x * slope_x + out_y * slope_y
        around = -out_y * slope_x + out_x * slope_y
        return torch.stack(
            [-turn * out_y - out_x, turn * out_x - out_y, along_u - turn * around + radial]
        )

    def _across(self, points: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.centre.along(points[2])
        return points[0] - x, points[1] - y


@dataclass(frozen=True)
class TubeStyle:
    """What tubes of one style have in common; ranges are drawn from per clip."""

    radius: tuple[float, float]  # millimetres
    bend: tuple[float, float]  # amplitude of the centreline, millimetres
    bend_length: tuple[float, float]  # its wavelength, millimetres
    spacing: tuple[float, float]  # between folds, millimetres
    depth: tuple[float, float]  # of folds, as a share of the radius
    width: tuple[float, float]  # half width of a fold's crest, millimetres
    triangle: tuple[float, float]  # three bands that make the section a triangle, share of radius
    waviness: float  # millimetres by which folds leave their plane
    tissues: tuple[tuple[float, float, float], ...]  # linear colours to mix
    vessels: tuple[float, float]  # strength of vessels, 0 to 1
    villi: tuple[float, float]  # height of fine bumps in the light alone, millimetres
    rough: float  # height of bumps in the wall itself, millimetres
    lesion_size: tuple[float, float]  # radius of a lesion, millimetres
    speed: tuple[float, float]  # of the scope, millimetres per second
    steer: float  # spread of the angle between the look and the axis, radians


@dataclass(frozen=True)
class Lesion:
    """Place and form of a polyp on the wall."""

    u: float  # millimetres along the axis
    v: float  # radians
    radius: float  # millimetres
    height: float  # over its radius
    stretch: float  # its length over its breadth
    tilt: float  # radians
    seed: int


@dataclass(frozen=True)
class Breath:
    """How a tube moves by itself."""

    phase: float  # radians
    speed: float  # of the peristaltic wave, millimetres per second
    length: float  # between two waves, millimetres
    squeeze: float  # share of the radius that a wave closes
    sway: float  # radians by which the bends of the tube shift


@dataclass(frozen=True)
class TubeScene:
    """One organ: its form at rest and how it moves in time (seconds)."""

    centre: Wave
    rest: Grid  # height of the wall at rest, millimetres, lesion included
    low: Grid  # least height nearby, from `least_nearby`
    breath: Breath

    def axis(self, z: float) -> NDArray[np.float64]:
        """The centreline (x, y) at z, at rest."""
        return self.centre.at(z)

    def wall(self, time: float, deformation: float) -> Wall:
        """The wall at a moment; breathing, sway and a peristaltic wave grow with deformation."""
        z = np.linspace(START, END, CELLS[0])
        breath = self.breath
        swell = 1 + deformation * 0.025 * np.sin(1.7 * time + breath.phase)
        turn = 2 * np.pi * (z - breath.speed * time) / breath.length + breath.phase
        wave = np.exp(5 * (np.cos(turn) - 1))
        factor = np.clip(swell - deformation * breath.squeeze * wave, 0.3, None)
        shift = deformation * breath.sway * np.sin(np.array([1.3, 0.9]) * time + breath.phase)
        moved = replace(self.centre, phase=self.centre.phase + shift[:, None])
        height = self.rest * factor[:, None].astype(np.float32)
        # The factor hardly changes over the reach of the bounds; 0.97 covers what it does.
        low = self.low * (0.97 if deformation > 0 else 1.0) * factor[:, None].astype(np.float32)
        return tube_wall(Tube(moved), height, low)

    def rods(self, time: float, deformation: float) -> list[Rod]:
        """There is no instrument in a tube."""
        return []


def tube_wall(chart: Tube, height: Grid, low: Grid) -> Wall:
    """Heights (U, V) and least heights nearby as the tables of a wall."""
    cell = ((END - START) / (CELLS[0] - 1), 2 * np.pi / CELLS[1])
    values = torch.from_numpy(np.ascontiguousarray(height, dtype=np.float32))
    along = torch.zeros_like(values)
    along[1:-1] = (values[2:] - values[:-2]) / (2 * cell[0])
    around = (values.roll(-1, 1) - values.roll(1, 1)) / (2 * cell[1])
    heights = torch.stack([values, along, around])
    bounds = torch.stack([values, torch.from_numpy(low.astype(np.float32))])
    origin = (START, 0.0)
    return Wall(
        chart,
        Table(heights, origin, cell, periodic=True),
        Table(bounds, origin, cell, periodic=True),
    )


def least_nearby(height: Grid) -> Grid:
    """Smallest height within `REACH` millimetres of each cell, in both directions."""
    rows = int(np.ceil(REACH / ((END - START) / CELLS[0])))
    columns = int(np.ceil(REACH / (2 * np.pi * max(float(height.max()) * 0.5, 1) / CELLS[1])))
    wrapped = np.pad(height, ((0, 0), (columns, columns)), mode="wrap")
    low = -functional.max_pool2d(
        functional.pad(-torch.from_numpy(wrapped)[None, None], (0, 0, rows, rows), value=-1e9),
        (2 * rows + 1, 1),
        stride=1,
    )
    low = -functional.max_pool2d(-low, (1, 2 * columns + 1), stride=1)
    return np.asarray(low[0, 0].numpy())


def fold_heights(rng: np.random.Generator, style: TubeStyle, radius: float) -> Grid:
    """Radius of the wall (U, V) in millimetres: bands, haustra between them and their folds."""
    z = np.linspace(START, END, CELLS[0])[:, None]
    angle = np.arange(CELLS[1])[None, :] * (2 * np.pi / CELLS[1])
    cells = ((END - START) / CELLS[0], 2 * np.pi * radius / CELLS[1])
    twist = rng.uniform(0, 2 * np.pi) + 0.004 * rng.uniform(-1, 1) * z
    wall = radius * (1 + rng.uniform(*style.triangle) * np.cos(3 * (angle - twist)))
    wobble = style.waviness * smooth_noise(rng, CELLS, (14 / cells[0], 14 / cells[1]))
    ridge = np.zeros(CELLS)
    place, parity = START + rng.uniform(0, 10), 0.0
    while place < END:
        gap = rng.uniform(*style.spacing)
        depth = radius * rng.uniform(*style.depth)
        width = rng.uniform(*style.width)
        # Semilunar: a fold spans an arc and thins out towards its ends.
        parity += rng.uniform(1.6, 2.6)
        arc = 0.62 + 0.38 * np.cos(angle - parity) + 0.12 * np.cos(3 * (angle - twist))
        tilt = rng.uniform(-4, 4) * np.cos(angle - rng.uniform(0, 2 * np.pi))
        offset = (z - place - wobble - tilt) / width
        ridge = np.maximum(ridge, depth * np.clip(arc, 0.05, 1) * np.exp(-(np.abs(offset) ** 1.45)))
        place += gap
    wall = wall - ridge
    wall += 0.02 * radius * smooth_noise(rng, CELLS, (7 / cells[0], 7 / cells[1]))
    height = blur(wall.astype(np.float32), (1.0, 0.8))
    if style.rough > 0:
        height += style.rough * smooth_noise(rng, CELLS, (0.35 / cells[0], 0.35 / cells[1]))
    ends = np.clip(np.minimum(z - START, END - z) / 30, 0, 1)
    return (height * np.sqrt(np.clip(1 - (1 - ends) ** 2, 0, 1))).astype(np.float32)


def lesion_profile(lesion: Lesion, radius: float, shape: tuple[int, int]) -> tuple[Grid, Grid]:
    """Height in millimetres by which a lesion stands out, and its share of tissue in [0, 1]."""
    along = np.linspace(START, END, shape[0])[:, None] - lesion.u
    angle = np.arange(shape[1])[None, :] * (2 * np.pi / shape[1])
    turn = (angle - lesion.v + np.pi) % (2 * np.pi) - np.pi
    cos, sin = np.cos(lesion.tilt), np.sin(lesion.tilt)
    rng = np.random.default_rng(lesion.seed)
    lobes = rng.uniform(0.0, 0.07, 4), rng.uniform(0, 6.3, 4)
    waves = rng.uniform(0.5, 1.1, (3, 2)) / (0.18 * lesion.radius + 0.6)
    # Arcs shorten towards the axis; measured at two thirds of its height the lesion stays round.
    across = (radius - 0.65 * lesion.radius * lesion.height) * turn
    first, second = (cos * along + sin * across) / lesion.stretch, cos * across - sin * along
    bearing = np.arctan2(second, first)
    ripple = sum(
        a * np.cos(k * bearing + p) for k, (a, p) in enumerate(zip(*lobes, strict=True), start=2)
    )
    distance = np.hypot(first, second) / lesion.radius * (1 + ripple)
    lumps = sum(
        np.cos(f * first + k) * np.cos(s * second + 2 * k) for k, (f, s) in enumerate(waves)
    )
    dome = np.sqrt(np.clip(1 - np.clip(distance, 0, 1) ** 2.3, 0, 1))
    height = lesion.radius * lesion.height * dome * (1 + 0.05 * lumps)
    share = np.clip((1.08 - distance) / 0.14, 0, 1)
    return height.astype(np.float32), share.astype(np.float32)


def paint(
    rng: np.random.Generator, style: TubeStyle, radius: float, folds: Grid, lesion: Lesion | None
) -> Table:
    """Texture of the wall; see `shade` for its channels."""
    shape = TEXTURE_CELLS
    cell = ((END - START) / (shape[0] - 1), 2 * np.pi / shape[1])
    size = (cell[0], cell[1] * radius)

    def noise(millimetres: float) -> Grid:
        return smooth_noise(rng, shape, (millimetres / size[0], millimetres / size[1]))

    relief = _resized(folds - blur(folds, (22.0, 12.0)), shape) / radius  # > 0 in hollows
    base = _mixed_tissue(rng, style.tissues)
    mottle = 0.10 * noise(9) + 0.05 * noise(2.5) + 0.03 * noise(0.7)
    albedo = base[:, None, None] * np.exp(mottle)[None] * np.ones((3, 1, 1))
    flush = np.clip(0.5 * noise(6) + 2.2 * relief, -1, 1)  # redder hollows, paler crests
    albedo = albedo * np.exp(np.array([-0.02, -0.26, -0.24])[:, None, None] * flush)
    trunks = int(rng.uniform(16, 30) * (25.0 / radius) ** 0.5)
    vessels = vessel_tree(rng, shape, size, trunks, 55.0) * rng.uniform(*style.vessels)
    vessels = vessels * np.clip(0.75 + 0.35 * noise(10), 0.1, 1)
    gloss = np.clip(0.9 + 0.9 * noise(3.0), 0.05, 3)
    bump: Grid = rng.uniform(*style.villi) * normalised(noise(0.45) + noise(1.2))
    share = np.zeros(shape, np.float32)
    if lesion is not None:
        _, share = lesion_profile(lesion, radius, shape)
        vessels = vessels * (1 - 0.85 * share)
        pits = normalised(noise(0.45) + noise(1.1))
        tint = np.array([1.02, 0.66, 0.62]) * np.random.default_rng(lesion.seed).uniform(0.85, 1.1)
        albedo = albedo * (1 + share * (tint[:, None, None] * np.exp(0.06 * pits) - 1))
        bump = bump * (1 - 0.4 * share)
    albedo = albedo * np.exp(-np.array([0.38, 1.25, 1.05])[:, None, None] * vessels)
    residue = specks(
        rng, shape, (1.2 / size[0], 1.2 / size[1]), float(rng.choice([1e-5, 1e-4, 0.004]))
    )
    residue = residue * (1 - share)
    albedo = albedo * (1 - residue) + np.array([0.62, 0.5, 0.16])[:, None, None] * residue
    hollow = np.clip(1 - 2.4 * np.clip(relief, 0, None), 0.35, 1)
    slope_u = np.gradient(bump, axis=0) / cell[0]
    slope_v = (np.roll(bump, -1, 1) - np.roll(bump, 1, 1)) / (2 * cell[1])
    channels = np.concatenate(
        [np.clip(albedo, 0.005, 0.98), np.stack([slope_u, slope_v, hollow, gloss, share])]
    )
    return Table(
        torch.from_numpy(channels.astype(np.float32)), (START, 0.0), cell, periodic=True, levels=4
    )


def _mixed_tissue(
    rng: np.random.Generator, tissues: tuple[tuple[float, float, float], ...]
) -> NDArray[np.float64]:
    shares = rng.dirichlet(np.full(len(tissues), 0.8))
    return np.asarray(shares @ np.asarray(tissues)) * rng.uniform(0.92, 1.08)


def _resized(grid: Grid, shape: tuple[int, int]) -> Grid:
    resized = functional.interpolate(
        torch.from_numpy(grid)[None, None], shape, mode="bilinear", align_corners=False
    )
    return np.asarray(resized[0, 0].numpy())
