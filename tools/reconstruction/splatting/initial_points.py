"""Where the Gaussians of a fit begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Cameras
from tools.reconstruction.depth.points import depth_between_points
from tools.reconstruction.splatting.gaussians import Gaussians, colour_to_harmonic

SPARSE = 0.5  # of all points at most come from the search for cameras: it finds none on plain walls
OPACITY = 0.1
NEIGHBOURS = 3
ROWS = 1024  # of the table of distances at once


@dataclass(frozen=True)
class Points:
    """Coloured points of a scene."""

    positions: Tensor  # (N, 3) world
    colours: Tensor  # (N, 3) 0 to 1

    def __len__(self) -> int:
        return len(self.positions)


def initial_points(
    cameras: Cameras,
    frames: Tensor,
    masks: Tensor | None = None,
    depth: Tensor | None = None,
    sparse: Points | None = None,
    limit: int = 3000,
    seed: int = 0,
    train: Sequence[int] | None = None,
) -> Points:
    """Points to start from: those that are known, and pixels put where their depth says.

    Where no depth is known it is taken from the sparse points.

    Args:
        cameras: one pose per frame, at the size of the frames.
        frames: (F, H, W, 3) uint8, or float from 0 to 1.
        masks: (F, H, W) True where a pixel counts.
        depth: (F, H, W) z in the unit of the cameras, 0 where unknown.
        sparse: points that the search for cameras found.
        limit: largest number.
        seed: of the choice.
        train: indices of the frames that may be looked at; None for all.

    Raises:
        ValueError: neither depth nor enough points to tell it.
    """
    draw = torch.Generator().manual_seed(seed)
    usable = list(range(len(frames))) if train is None else list(train)
    masks = torch.ones(frames.shape[:3], dtype=torch.bool) if masks is None else masks.bool()
    known = Points(torch.zeros(0, 3), torch.zeros(0, 3))
    if sparse is not None:
        chosen = torch.randperm(len(sparse), generator=draw)[: int(SPARSE * limit)].sort().values
        known = Points(sparse.positions[chosen].float(), sparse.colours[chosen].float())
        if depth is None:
            depth = depth_between_points(cameras, sparse.positions)
    if depth is None or not bool(((depth > 0) & masks)[usable].any()):
        raise ValueError(
            f"{len(known)} points and no depth to start from: give depth maps (--depth), or frames "
            f"in which more can be matched (more of them, larger, with camera travel)"
        )
    rest = limit - len(known)
    found = _from_depth(cameras, frames, (depth > 0) & masks, depth, rest, draw, usable)
    return Points(
        torch.cat([known.positions, found.positions]), torch.cat([known.colours, found.colours])
    )


def gaussians_from_points(points: Points, degree: int = 0) -> Gaussians:
    """Round, faint Gaussians as large as the points lie apart, of one colour from all sides.

    Raises:
        ValueError: fewer than two points.
    """
    count = len(points)
    if count < 2:
        raise ValueError(f"{count} points; a scene starts from at least 2")
    positions = points.positions.float()
    distances = nearest_distances(positions)
    # Points on top of each other would start as Gaussians without extent, which get no gradient.
    distances = distances.clamp(min=1e-3 * float(distances.median()) + 1e-7)
    harmonics = torch.zeros(count, (degree + 1) ** 2, 3)
    harmonics[:, 0] = colour_to_harmonic(points.colours.float())
    rotations = torch.zeros(count, 4)
    rotations[:, 0] = 1
    return Gaussians(
        positions=positions.clone(),
        log_scales=distances.log()[:, None].repeat(1, 3),
        rotations=rotations,
        opacity_logits=torch.full((count,), OPACITY).logit(),
        harmonics=harmonics,
    )


def nearest_distances(positions: Tensor) -> Tensor:
    """Mean distance (N,) of each point (N, 3) to its three nearest neighbours."""
    count = min(NEIGHBOURS, len(positions) - 1)
    parts = []
    for first in range(0, len(positions), ROWS):
        # Products of coordinates would lose the digits of near points.
        table = torch.cdist(
            positions[first : first + ROWS],
            positions,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        parts.append(table.topk(count + 1, largest=False).values[:, 1:].mean(1))
    return torch.cat(parts)


def _from_depth(
    cameras: Cameras,
    frames: Tensor,
    known: Tensor,
    depth: Tensor,
    limit: int,
    draw: torch.Generator,
    usable: list[int],
) -> Points:
    """Pixels drawn evenly from the frames, put where their depth says."""
    usable = [index for index in usable if known[index].any()]
    each = max(1, limit // len(usable))
    places, colours = [], []
    for index in usable:
        pixels = torch.nonzero(known[index].flatten())[:, 0]
        pixels = pixels[torch.randperm(len(pixels), generator=draw)[:each]]
        world = cameras.camera(index).unproject(depth[index]).flatten(0, 1)
        places.append(world[pixels].float())
        colours.append(_as_float(frames[index]).flatten(0, 1)[pixels])
    return Points(torch.cat(places)[:limit], torch.cat(colours)[:limit])


def _as_float(frame: Tensor) -> Tensor:
    return frame.float() / 255 if frame.dtype == torch.uint8 else frame.float()
