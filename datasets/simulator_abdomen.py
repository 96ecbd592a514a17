"""The laparoscopic view of the simulator: liver, gallbladder and fat, and an instrument at work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.simulator_render import REACH, ChartPoint, Rod, Table, Wall
from datasets.simulator_textures import (
    Grid,
    blur,
    normalised,
    smooth_noise,
    specks,
    vessel_tree,
)
from datasets.simulator_tube import Wave

Floats = NDArray[np.floating[Any]]

HALF = 130.0  # millimetres from the middle of the sheet to its edge
CELLS = 512
TEXTURE_CELLS = 768
FLOOR = 92.0  # millimetres from the scope's mean place to the bed of the organs
ORGANS = ("liver", "gallbladder", "fat", "bowel")


class Sheet:
    """Chart over a plane across the line of sight: u = y, v = x, radius = z."""

    def locate(self, points: Tensor) -> ChartPoint:
        """Chart coordinates of points (3, N)."""
        return ChartPoint(points[1], points[0], points[2])

    def gradient(self, points: Tensor, along_u: Tensor, along_v: Tensor) -> Tensor:
        """Gradient (3, N) of height minus radius."""
        return torch.stack([along_v, along_u, -torch.ones_like(along_u)])


@dataclass(frozen=True)
class Instrument:
    """A shaft that comes from a port beside the view and works around a place."""

    port: NDArray[np.float64]  # (3,) millimetres
    place: NDArray[np.float64]  # (2,) mean place of the tip, millimetres
    wander: Wave  # of the tip, millimetres over seconds
    radius: float  # of the shaft, millimetres
    colour: tuple[float, float, float]
    collar: tuple[float, float, float]

    def rods(self, time: float, activity: float, surface: Grid) -> list[Rod]:
        """Shaft, collar and two jaws at a moment; activity 0 holds the instrument still."""
        across = self.place + (activity > 0) * self.wander.at(time * max(activity, 1e-9))
        row, column = ((across[::-1] + HALF) / (2 * HALF) * (CELLS - 1)).astype(int)
        tip = np.array([*across, float(surface[row, column]) - 3.0])
        axis = (tip - self.port) / np.linalg.norm(tip - self.port)
        side = np.cross(axis, [0.0, 0.0, 1.0])
        side /= np.linalg.norm(side) + 1e-9
        wrist = tip - 15.0 * axis
        spread = 0.16 + 0.14 * np.sin(1.9 * time * activity)
        steel = (0.20, 0.20, 0.21)
        rods = [
            Rod(self.port, wrist - 5.0 * axis, self.radius, self.colour, 0.35),
            Rod(wrist - 5.0 * axis, wrist, 0.8 * self.radius, self.collar, 0.4),
        ]
        for sign in (-1, 1):
            end = wrist + 15.0 * (axis * np.cos(spread) + sign * side * np.sin(spread))
            rods.append(Rod(wrist, end, 0.34 * self.radius, steel, 1.0))
        return rods


@dataclass(frozen=True)
class AbdomenScene:
    """The organs at rest, the instruments, and how they move in time (seconds)."""

    rest: Grid  # z of the surface, millimetres
    low: Grid  # least z nearby
    level: Grid  # the surface without its detail, which instruments follow
    loose: Grid  # how far breathing moves each place, 0 to 1
    instruments: tuple[Instrument, ...]
    centre: tuple[float, float]  # where the scope is, millimetres
    phase: float

    def axis(self, z: float) -> NDArray[np.float64]:
        """The line (x, y) along which the scope goes in and out."""
        return np.array(self.centre)

    def wall(self, time: float, deformation: float) -> Wall:
        """The organs at a moment, lifted and lowered by breathing."""
        rise = deformation * 2.5 * np.sin(1.6 * time + self.phase)
        shift = (rise * self.loose).astype(np.float32)
        return sheet_wall(self.rest + shift, self.low + shift - (0.5 if deformation > 0 else 0.0))

    def rods(self, time: float, deformation: float) -> list[Rod]:
        """The parts of all instruments at a moment."""
        return [r for tool in self.instruments for r in tool.rods(time, deformation, self.level)]


def sheet_wall(height: Grid, low: Grid) -> Wall:
    """Heights (U, V) and least heights nearby as the tables of a wall."""
    cell = 2 * HALF / (CELLS - 1)
    slope_u, slope_v = np.gradient(height, cell)
    heights = torch.from_numpy(np.stack([height, slope_u, slope_v]).astype(np.float32))
    bounds = torch.from_numpy(np.stack([height, low]).astype(np.float32))
    place = ((-HALF, -HALF), (cell, cell))
    return Wall(Sheet(), Table(heights, *place, periodic=False), Table(bounds, *place, False))


def least_nearby(height: Grid) -> Grid:
    """Smallest height within `REACH` millimetres of each cell."""
    reach = int(np.ceil(REACH / (2 * HALF / CELLS)))
    values = -torch.from_numpy(height)[None, None]
    for kernel, pad in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
        values = torch.nn.functional.max_pool2d(values, kernel, stride=1, padding=pad)
    return np.asarray(-values[0, 0].numpy())


@dataclass(frozen=True)
class Anatomy:
    """Where the organs lie: the draw that form and paint share. Millimetres."""

    side: float  # -1 or 1: mirrored or not
    fundus: NDArray[np.float64]  # (2,) far end of the gallbladder
    neck: NDArray[np.float64]  # (2,)
    girth: tuple[float, float]  # radius of the gallbladder at its two ends
    fat_end: NDArray[np.float64]  # (2,)
    fat_girth: float
    nodule: tuple[float, float, float] | None  # x, y, radius of a lesion on the liver
    seed: int

    @classmethod
    def random(cls, rng: np.random.Generator, lesion: bool) -> Anatomy:
        """Draw one; its lesion lies on bare liver near the middle of the view."""
        side = float(rng.choice([-1, 1]))
        anatomy = cls(
            side,
            np.array([side * rng.uniform(-20, 8), rng.uniform(-80, -50)]),
            np.array([side * rng.uniform(-10, 4), rng.uniform(-5, 16)]),
            (rng.uniform(15, 22), rng.uniform(8, 12)),
            np.array([-side * rng.uniform(0, 35), rng.uniform(70, 95)]),
            rng.uniform(16, 26),
            None,
            int(rng.integers(2**31)),
        )
        radius, places = rng.uniform(4.0, 7.0), rng.uniform(-30, 30, (60, 2))
        if not lesion:
            return anatomy
        bare = blur(anatomy.layers(CELLS)[1][0], (radius / 0.7, radius / 0.7))
        columns, rows = ((places.T + HALF) / (2 * HALF) * (CELLS - 1)).astype(int)
        worth = np.minimum(bare[rows, columns], 0.97) - 0.012 * np.hypot(*places.T)
        x, y = places[int(np.argmax(worth))]
        return replace(anatomy, nodule=(float(x), float(y), radius))

    def layers(self, cells: int) -> tuple[Grid, Grid, Grid]:
        """Surface z (U, V), shares of `ORGANS` (4, U, V) and share of lesion, on a square grid."""
        rng = np.random.default_rng(self.seed)
        y, x = np.meshgrid(*2 * [np.linspace(-HALF, HALF, cells)], indexing="ij")
        coarse = (256, 256)

        def noise(millimetres: float) -> Grid:
            scale = millimetres / (2 * HALF / 256)
            return _resized(smooth_noise(rng, coarse, (scale, scale)), cells)

        plain_x, plain_y = x, y
        x = x + 5 * noise(16)
        y = y + 5 * noise(16)
        along, off = _to_segment(x, y, self.fundus, self.neck)
        girth = self.girth[0] + (self.girth[1] - self.girth[0]) * along**1.5
        valley = np.exp(-((off / 26) ** 2))
        liver = FLOOR - 24 * (1 - valley) + 0.004 * (x**2 + 0.5 * y**2) - 1.2 * noise(7)
        gall = FLOOR - 2 - 1.25 * _dome(off, girth) - 0.8 * noise(6)
        _, fat_off = _to_segment(x, y, self.neck, self.fat_end)
        lobes = 3.2 * np.abs(noise(5)) + 1.6 * np.abs(noise(2.6))
        fat = FLOOR - 5 - 0.75 * _dome(fat_off, self.fat_girth + 5 * noise(12)) + lobes
        bowel_off = np.hypot(x - self.side * 52, y - 82)
        bowel = FLOOR - 2 - 0.7 * _dome(bowel_off, 40.0) - 1.5 * noise(9)
        stack = np.stack([liver, gall, fat, bowel])
        shares = np.exp(-(stack - stack.min(0)) / 0.9)
        shares /= shares.sum(0)
        surface = (shares * stack).sum(0)
        lesion = np.zeros_like(surface)
        if self.nodule is not None:
            place_x, place_y, radius = self.nodule
            distance = np.hypot(plain_x - place_x, plain_y - place_y) / radius
            lesion = np.clip((1.05 - distance) / 0.15, 0, 1) * shares[0]
            surface -= 0.55 * radius * np.sqrt(np.clip(1 - distance**2, 0, 1)) * shares[0]
        surface = blur(surface.astype(np.float32), (cells / 512, cells / 512))
        return surface, shares.astype(np.float32), lesion.astype(np.float32)


def _to_segment(
    x: Floats, y: Floats, start: NDArray[np.float64], end: NDArray[np.float64]
) -> tuple[Floats, Floats]:
    """Place along a segment (0 to 1) and distance from it, of each point."""
    way = end - start
    along = np.clip(((x - start[0]) * way[0] + (y - start[1]) * way[1]) / (way @ way), 0, 1)
    return along, np.hypot(x - start[0] - along * way[0], y - start[1] - along * way[1])


def _dome(distance: Floats, radius: Floats | float) -> Floats:
    """Height of a round body over its bed, falling below the bed outside of it."""
    inside = np.sqrt(np.clip(np.square(radius) - distance**2, 0, None))
    return inside - 1.5 * np.clip(distance - radius, 0, None)


def _resized(grid: Grid, cells: int) -> Grid:
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[None, None], (cells, cells), mode="bicubic", align_corners=True
    )
    return np.asarray(resized[0, 0].numpy())


TISSUES = np.array(
    [[0.21, 0.042, 0.042], [0.74, 0.46, 0.25], [0.84, 0.45, 0.17], [0.78, 0.36, 0.28]]
)


def paint_abdomen(rng: np.random.Generator, anatomy: Anatomy) -> Table:
    """Texture of the organs; see `shade` for its channels."""
    shape, cell = (TEXTURE_CELLS, TEXTURE_CELLS), 2 * HALF / (TEXTURE_CELLS - 1)
    surface, shares, lesion = anatomy.layers(TEXTURE_CELLS)

    def noise(millimetres: float) -> Grid:
        return smooth_noise(rng, shape, (millimetres / cell, millimetres / cell))

    tissues = TISSUES * rng.uniform(0.85, 1.15, (4, 1)) * rng.uniform(0.93, 1.07, (4, 3))
    tissues[1] *= rng.choice([[1.0, 1.0, 1.0], [0.8, 1.0, 0.75], [1.05, 0.85, 0.8]])
    albedo = np.einsum("oc,ouv->cuv", tissues, shares)
    albedo = albedo * np.exp(0.12 * noise(8) + 0.09 * noise(2.2) + 0.06 * noise(0.8))
    vessels = vessel_tree(rng, shape, (cell, cell), 60, 50.0)
    vessels = vessels * (0.25 * shares[0] + 0.8 * shares[1] + 0.4 * shares[2] + 0.7 * shares[3])
    albedo = albedo * np.exp(-np.array([0.35, 1.3, 1.2])[:, None, None] * vessels)
    y, x = np.meshgrid(*2 * [np.linspace(-HALF, HALF, TEXTURE_CELLS)], indexing="ij")
    around = np.exp(-(np.hypot(x - anatomy.neck[0], y - anatomy.neck[1]) ** 2) / (2 * 17.0**2))
    blood = specks(rng, shape, (2.0 / cell, 3.0 / cell), rng.uniform(0.05, 0.35)) * around
    albedo = albedo * (1 - blood) + np.array([0.36, 0.02, 0.018])[:, None, None] * blood
    pale = np.array([0.74, 0.55, 0.36])[:, None, None] * np.exp(0.08 * noise(1.0))
    albedo = albedo * (1 - lesion) + pale * lesion
    relief = surface - blur(surface, (9 / cell, 9 / cell))
    hollow = np.clip(1 - 0.09 * np.clip(relief, 0, None), 0.25, 1)
    gloss = np.clip(0.7 + 0.9 * noise(4.0), 0.03, 3) * (1 + 0.8 * shares[0] + blood)
    bump = 0.10 * normalised(noise(0.6) + noise(1.6)) * (1 + 0.6 * shares[2])
    slope_u, slope_v = np.gradient(bump, cell)
    channels = np.concatenate(
        [np.clip(albedo, 0.004, 0.95), np.stack([slope_u, slope_v, hollow, gloss, lesion])]
    )
    return Table(
        torch.from_numpy(channels.astype(np.float32)),
        (-HALF, -HALF),
        (cell, cell),
        periodic=False,
        levels=4,
    )


def random_instrument(rng: np.random.Generator, anatomy: Anatomy, direction: float) -> Instrument:
    """An instrument that enters from a direction (radians from the right, clockwise)."""
    dark = rng.uniform() < 0.6
    grey = rng.uniform(0.03, 0.07) if dark else rng.uniform(0.12, 0.22)
    collars = ((0.5, 0.5, 0.48), (0.2, 0.2, 0.21), (0.07, 0.11, 0.4))
    return Instrument(
        port=np.array([150 * np.cos(direction), 150 * np.sin(direction), rng.uniform(15, 40)]),
        place=anatomy.neck + rng.uniform(-12, 12, 2) + 9 * np.array([np.cos(direction), 0.0]),
        wander=Wave.random(rng, (2.5, 6.0), (2.5, 6.0)),
        radius=rng.uniform(3.6, 5.4),
        colour=(grey, grey, 1.05 * grey),
        collar=collars[int(rng.integers(3))],
    )
