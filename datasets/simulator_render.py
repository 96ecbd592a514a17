"""Ray marching and shading of a wall that is given as a height over a chart.

A wall is the zero set of `height(u, v) - radius`, where (u, v, radius) are the coordinates of a
point in a chart: along, around and away from the axis of a bent tube, or the plane coordinates
and depth over a sheet. Heights and textures are tables, so a look-up costs the same whatever the
shape; depth, normals and texture follow from the same surface and so agree with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


class Table:
    """Values on a grid over the chart, looked up bilinearly (and by level of detail).

    Args:
        values: (C, U, V).
        origin: chart coordinates of the cell (0, 0).
        cell: size of a cell in chart units.
        periodic: whether v closes on itself after V cells.
        levels: number of resolutions, each half of the one before.
    """

    def __init__(
        self,
        values: Tensor,
        origin: tuple[float, float],
        cell: tuple[float, float],
        periodic: bool,
        levels: int = 1,
    ) -> None:
        self.origin, self.cell, self.periodic = origin, cell, periodic
        self.levels = []
        for level in range(levels):
            self.levels.append(self._padded(values))
            if level + 1 < levels:
                values = functional.avg_pool2d(values[None], 2)[0]

    def _padded(self, values: Tensor) -> Tensor:
        if self.periodic:
            values = torch.cat([values[..., -1:], values, values[..., :1]], dim=-1)
        return values[None].contiguous()

    def look_up(self, u: Tensor, v: Tensor, level: int = 0) -> Tensor:
        """Values (C, N) at the chart coordinates u, v (N,)."""
        table = self.levels[level]
        # A coarse cell is centred on the 2**level fine cells that it averages.
        scale, shift = 2.0**level, (2.0**level - 1) / 2
        row = ((u - self.origin[0]) / self.cell[0] - shift) / scale
        column = ((v - self.origin[1]) / self.cell[1] - shift) / scale
        if self.periodic:
            column = column + 1  # the padding
        grid = torch.stack(
            [column * (2 / (table.shape[3] - 1)) - 1, row * (2 / (table.shape[2] - 1)) - 1], dim=-1
        )
        found = functional.grid_sample(
            table, grid[None, None], padding_mode="border", align_corners=True
        )
        return found[0, :, 0]

    def look_up_filtered(self, u: Tensor, v: Tensor, detail: Tensor) -> Tensor:
        """Values (C, N), blended over the resolutions: detail 0 is the finest, 1 half of it."""
        detail = detail.clamp(0, len(self.levels) - 1)
        result = torch.zeros(self.levels[0].shape[1], len(u))
        for level in range(len(self.levels)):
            weight = (1 - (detail - level).abs()).clamp(min=0)
            result += weight * self.look_up(u, v, level)
        return result


@dataclass(frozen=True)
class ChartPoint:
    """Chart coordinates of N points, and how they change with the position."""

    u: Tensor
    v: Tensor
    radius: Tensor


class Chart(Protocol):
    """Where a point of the world (millimetres) lies relative to the undisturbed wall."""

    def locate(self, points: Tensor) -> ChartPoint:
        """Chart coordinates of points (3, N)."""

    def gradient(self, points: Tensor, along_u: Tensor, along_v: Tensor) -> Tensor:
        """Gradient (3, N) of `height - radius`, from the slopes of the height in u and v."""


@dataclass(frozen=True)
class Wall:
    """A surface at one moment.

    `height` has the channels height, slope in u, slope in v. `bounds` has the channels height and
    the least height within `REACH` millimetres, which tells how far a ray may go unharmed.
    """

    chart: Chart
    height: Table
    bounds: Table

    def clearance(self, points: Tensor) -> Tensor:
        """Height minus radius (2, N) at points (3, N): here, and at least this nearby."""
        at = self.chart.locate(points)
        return self.bounds.look_up(at.u, at.v) - at.radius


REACH = 5.0  # millimetres


def norm(vectors: Tensor) -> Tensor:
    """Lengths (N,) of vectors (3, N); torch's own is slow over the first dimension."""
    return (vectors * vectors).sum(0).sqrt()


def unit(vectors: Tensor) -> Tensor:
    """Vectors (3, N) of length 1."""
    return vectors / norm(vectors).clamp(min=1e-9)


def march(
    wall: Wall, origin: Tensor, rays: Tensor, far: float, first: float = 0.5, steps: int = 160
) -> Tensor:
    """Distances (N,) along rays (3, N) from `origin` (3,) to the wall, in units of the rays.

    Away from the wall a step may be as long as the clearance of the whole neighbourhood; near a
    fold it is a small share of the clearance, so that no crest is jumped. The first change of
    sign is then refined, so the result lies on the wall to about 0.01 mm. A ray that
    meets nothing before `far` gets `far`.
    """
    lengths = norm(rays)
    below = torch.full_like(lengths, first)
    above = torch.full_like(lengths, far)
    alive = torch.arange(len(lengths))
    ray, length, near = rays, lengths, below.clone()
    here = near.clone()
    for _ in range(steps):
        clear, safe = wall.clearance(origin[:, None] + here * ray)
        hit = (clear <= 0) | (here >= far)
        done = torch.nonzero(hit)[:, 0]
        if len(done) > len(alive) // 12:
            below[alive[done]], above[alive[done]] = near[done], here[done]
            keep = torch.nonzero(~hit)[:, 0]
            alive, ray, length = alive[keep], ray[:, keep], length[keep]
            here, near, clear, safe = here[keep], near[keep], clear[keep], safe[keep]
            if len(alive) == 0:
                break
            hit = torch.zeros(len(alive), dtype=torch.bool)
        near = torch.where(hit, near, here)
        stride = torch.maximum(0.35 * clear, (0.9 * safe).clamp(max=0.9 * REACH)) / length
        stride = torch.maximum(stride, 0.006 * here + 0.2 * first)
        here = torch.where(hit, here, (here + stride).clamp(max=far))
    below[alive], above[alive] = near, here
    return _refined(wall, origin, rays, below, above)


def _refined(wall: Wall, origin: Tensor, rays: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """Halve the bracket [below, above] of a change of sign, then interpolate in it."""
    for _ in range(4):
        middle = (below + above) / 2
        outside = wall.clearance(origin[:, None] + middle * rays)[0] <= 0
        above = torch.where(outside, middle, above)
        below = torch.where(outside, below, middle)
    first = wall.clearance(origin[:, None] + below * rays)[0].clamp(min=0)
    last = wall.clearance(origin[:, None] + above * rays)[0].clamp(max=0)
    return below + (above - below) * (first / (first - last).clamp(min=1e-6)).clamp(0, 1)


@dataclass(frozen=True)
class Light:
    """Lamp at the tip of the scope, the film of water on the wall, and the sensor."""

    reach: float  # millimetres at which a facing wall gets the light 1
    softness: float  # millimetres; keeps a wall that touches the scope from burning out
    spread: float  # exponent of the cosine to the optical axis
    wrap: float  # share of light that goes round edges inside the tissue, 0 to 1
    gloss: float  # strength of highlights
    sharpness: float  # exponent of highlights
    offset: float  # millimetres between the lens and each of its two lamps
    exposure: float  # target of the automatic gain
    ambient: tuple[float, float, float]  # light reflected between walls, by colour
    haze: tuple[float, float, float]  # millimetres that leave 37% of the light, by colour
    murk: tuple[float, float, float]  # light that the liquid in the organ scatters, by colour


@dataclass(frozen=True)
class Rod:
    """A straight round piece of an instrument with round ends, in the world. Millimetres."""

    start: NDArray[np.float64]  # (3,)
    end: NDArray[np.float64]  # (3,)
    radius: float
    colour: tuple[float, float, float]
    gloss: float


@dataclass(frozen=True)
class Shaded:
    """What a bundle of N rays sees."""

    colour: Tensor  # (3, N) linear light, before exposure
    depth: Tensor  # (N,) along the optical axis, millimetres
    lesion: Tensor  # (N,) share of lesion tissue, 0 to 1


def shade(
    wall: Wall,
    texture: Table,
    rods: Sequence[Rod],
    light: Light,
    pose: Tensor,
    rays: Tensor,
    focal: float,
    far: float,
) -> Shaded:
    """Trace and light N rays.

    Args:
        wall: the surface at this moment.
        texture: channels red, green, blue, bump in u, bump in v, hollow, gloss, lesion.
        rods: what hides the wall.
        light: lamp and film of water.
        pose: (4, 4) camera to world.
        rays: (3, N) in camera coordinates with z = 1, so that distances are z-depths.
        focal: focal length in samples, for the texture's level of detail.
        far: largest depth, millimetres.
    """
    turn, origin = pose[:3, :3], pose[:3, 3]
    world = turn @ rays
    depth = march(wall, origin, world, far)
    points = origin[:, None] + depth * world
    at = wall.chart.locate(points)
    _, along_u, along_v = wall.height.look_up(at.u, at.v)
    plain = unit(wall.chart.gradient(points, along_u, along_v))
    view = unit(-world)
    facing = (plain * view).sum(0).clamp(min=0.12)
    millimetres = texture.cell[0]
    detail = torch.log2(depth / focal / millimetres / facing.sqrt()).clamp(min=0)
    found = texture.look_up_filtered(at.u, at.v, detail)
    albedo, bump_u, bump_v, hollow, gloss, lesion = (found[:3], *found[3:8])
    normal = unit(wall.chart.gradient(points, along_u + bump_u, along_v + bump_v))
    diffuse, shine = lit(light, pose, points, normal, view)
    ambient = torch.tensor(light.ambient)[:, None] * (light.reach / (light.reach + depth)) ** 2
    colour = albedo * (diffuse + ambient) * hollow + light.gloss * gloss * shine
    passed = torch.exp(-depth / torch.tensor(light.haze)[:, None])
    colour = colour * passed + torch.tensor(light.murk)[:, None] * (1 - passed)
    seen = Shaded(colour, depth, lesion)
    for rod in rods:
        seen = _with_rod(seen, rod, light, pose, world)
    return seen


def _with_rod(seen: Shaded, rod: Rod, light: Light, pose: Tensor, world: Tensor) -> Shaded:
    """What is seen once a rod stands in the view."""
    origin = pose[:3, 3]
    start, end = torch.tensor(rod.start).float(), torch.tensor(rod.end).float()
    depth = meet_rod(start, end, rod.radius, origin, world)
    nearer = torch.nonzero(depth < seen.depth)[:, 0]
    if len(nearer) == 0:
        return seen
    points = origin[:, None] + depth[nearer] * world[:, nearer]
    axis = end - start
    share = (axis @ (points - start[:, None]) / (axis @ axis)).clamp(0, 1)
    normal = unit(points - start[:, None] - axis[:, None] * share)
    view = unit(-world[:, nearer])
    polish = replace(light, sharpness=24.0, wrap=0.05)
    diffuse, shine = lit(polish, pose, points, normal, view)
    colour = torch.tensor(rod.colour)[:, None] * (0.02 + diffuse) + 0.25 * rod.gloss * shine
    result = Shaded(seen.colour.clone(), seen.depth.clone(), seen.lesion.clone())
    result.colour[:, nearer], result.depth[nearer] = colour, depth[nearer]
    result.lesion[nearer] = 0
    return result


def meet_rod(start: Tensor, end: Tensor, radius: float, origin: Tensor, rays: Tensor) -> Tensor:
    """Distance (N,) along rays (3, N) to a cylinder with spherical ends; infinite for a miss."""
    axis = (end - start) / (end - start).norm()
    length = (end - start).norm()
    offset = origin - start
    ray_along, offset_along = axis @ rays, axis @ offset
    ray_across = rays - axis[:, None] * ray_along
    offset_across = offset - axis * offset_along
    side = _first_root(
        (ray_across * ray_across).sum(0),
        offset_across @ ray_across,
        float(offset_across @ offset_across) - radius**2,
    )
    place = offset_along + side * ray_along
    nearest = torch.where((place >= 0) & (place <= length), side, torch.inf)
    for centre in (start, end):
        gap = origin - centre
        ball = _first_root((rays * rays).sum(0), gap @ rays, float(gap @ gap) - radius**2)
        nearest = torch.minimum(nearest, ball)
    return nearest


def _first_root(square: Tensor, half: Tensor, constant: float) -> Tensor:
    """Smaller root of square t^2 + 2 half t + constant where it is positive, else infinity."""
    inside = half * half - square * constant
    root = (-half - inside.clamp(min=0).sqrt()) / square.clamp(min=1e-12)
    return torch.where((inside > 0) & (root > 0), root, torch.inf)


def lit(
    light: Light, pose: Tensor, points: Tensor, normal: Tensor, view: Tensor
) -> tuple[Tensor, Tensor]:
    """Diffuse light and highlights, both (N,), at points (3, N) from the scope's two lamps."""
    turn, origin = pose[:3, :3], pose[:3, 3]
    diffuse, shine = torch.zeros(points.shape[1]), torch.zeros(points.shape[1])
    for side in (-light.offset, light.offset):
        lamp = origin + turn[:, 0] * side + turn[:, 1] * 0.3 * light.offset
        towards = lamp[:, None] - points
        distance = norm(towards)
        towards = towards / distance
        strength = light.reach**2 / (distance**2 + light.softness**2)
        strength = strength * (-(turn[:, 2:] * towards).sum(0)).clamp(min=0) ** light.spread / 2
        cosine = (normal * towards).sum(0)
        diffuse += strength * ((cosine + light.wrap) / (1 + light.wrap)).clamp(min=0)
        glint = (normal * unit(towards + view)).sum(0).clamp(min=0) ** light.sharpness
        shine += strength * glint
    return diffuse, shine
