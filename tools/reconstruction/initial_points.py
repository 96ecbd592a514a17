"""Where the Gaussians of a fit begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.reconstruction.cameras import Cameras
from tools.reconstruction.gaussians import Gaussians, colour_to_harmonic

ENOUGH = 500  # sparse points that make a start by themselves
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
    """Points to start from: sparse ones if there are 500, else from depth, else by chance.

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
        ValueError: neither enough points nor depth.
    """
    draw = torch.Generator().manual_seed(seed)
    usable = list(range(len(frames))) if train is None else list(train)
    if sparse is not None and len(sparse) >= ENOUGH:
        chosen = torch.randperm(len(sparse), generator=draw)[:limit].sort().values
        return Points(sparse.positions[chosen].float(), sparse.colours[chosen].float())
    masks = torch.ones(frames.shape[:3], dtype=torch.bool) if masks is None else masks.bool()
    if depth is not None and bool(((depth > 0) & masks)[usable].any()):
        return _from_depth(cameras, frames, (depth > 0) & masks, depth, limit, draw, usable)
    count = 0 if sparse is None else len(sparse)
    if sparse is None or count < 2:
        raise ValueError(
            f"{count} points and no depth to start from: give depth maps (--depth), or frames in "
            f"which more can be matched (more of them, larger, with camera travel)"
        )
    return _by_chance(cameras, frames, masks, sparse, limit, draw, usable)


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


def _by_chance(
    cameras: Cameras,
    frames: Tensor,
    masks: Tensor,
    sparse: Points,
    limit: int,
    draw: torch.Generator,
    usable: list[int],
) -> Points:
    """The sparse points, and random depths between those at which they were seen."""
    each = max(1, (limit - len(sparse)) // len(usable))
    places, colours = [sparse.positions.float()], [sparse.colours.float()]
    for index in usable:
        camera = cameras.camera(index)
        seen = camera.project(sparse.positions)[1]
        seen = seen[seen > 0]
        if not len(seen):
            continue
        near, far = torch.quantile(seen.float(), torch.tensor([0.05, 0.95]))
        pixels = torch.nonzero(masks[index].flatten())[:, 0]
        pixels = pixels[torch.randperm(len(pixels), generator=draw)[:each]]
        drawn = near + (far - near) * torch.rand(masks[index].shape, generator=draw)
        places.append(camera.unproject(drawn).flatten(0, 1)[pixels].float())
        colours.append(_as_float(frames[index]).flatten(0, 1)[pixels])
    return Points(torch.cat(places)[:limit], torch.cat(colours)[:limit])


def _as_float(frame: Tensor) -> Tensor:
    return frame.float() / 255 if frame.dtype == torch.uint8 else frame.float()
