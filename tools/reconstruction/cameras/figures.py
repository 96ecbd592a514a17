"""What can be said in numbers about a model of COLMAP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.reconstruction.cameras.colmap import Matches, Model
from tools.reconstruction.cameras.pinhole import Cameras, align


@dataclass(frozen=True)
class ModelFigures:
    """The figures that the judge looks at, and some that only stand in the report."""

    frames: int  # with a pose
    points: int
    track: float  # mean number of frames that see a point
    reprojection: float  # mean distance of observations from projected points, pixels
    view: float  # horizontal field of view, degrees
    angle: float  # widest angle between the rays to a point, degrees, median over points
    jump: float  # longest step of the camera over the median step
    travel: float  # length of the camera's path over the median depth of the points
    explained: float  # share of the matched features of these frames that belong to a point
    behind: int  # observations of points that lie behind their camera


def measure_model(model: Model, matches: Matches) -> ModelFigures:
    """Figures of a model that was built from these matches."""
    cameras = model.cameras
    of_camera = _places(model)
    residuals, depths = _residuals(model, of_camera)
    count = len(model.points)
    steps = (cameras.centres[1:] - cameras.centres[:-1]).norm(dim=1)
    usual = float(steps.median()) if len(steps) else 0.0
    matched = int(matches.matched[list(cameras.numbers)].sum())
    depth = float(depths.median()) if len(depths) else float("nan")
    return ModelFigures(
        frames=len(cameras),
        points=count,
        track=len(model.observed_point) / count if count else 0.0,
        reprojection=float(residuals.mean()) if len(residuals) else float("nan"),
        view=cameras.field_of_view,
        angle=_angle(model, of_camera),
        jump=float(steps.max()) / usual if usual > 0 else float("nan"),
        travel=float(steps.sum()) / depth if depth > 0 else float("nan"),
        explained=len(model.observed_point) / matched if matched else 0.0,
        behind=int((depths <= 0).sum()),
    )


def path_disagreement(first: Cameras, second: Cameras, fewest: int) -> float | None:
    """How far two paths of the camera lie apart once aligned, over the extent of the second.

    None where they share fewer than `fewest` frames or cannot be aligned.
    """
    common = sorted(set(first.numbers) & set(second.numbers))
    if len(common) < fewest:
        return None
    second = second.chosen(common)
    extent = (second.centres - second.centres.mean(0)).square().sum(1).mean().sqrt()
    try:
        return align(first, second).rmse / float(extent)
    except ValueError:
        return None


def point_errors(model: Model) -> Tensor:
    """Mean reprojection error of each point (N,), pixels."""
    residuals, _ = _residuals(model, _places(model))
    count = len(model.points)
    sums = torch.zeros(count, dtype=torch.float64)
    sums.index_add_(0, model.observed_point, residuals)
    seen = torch.bincount(model.observed_point, minlength=count)
    return sums / seen.clamp(min=1)


def _places(model: Model) -> Tensor:
    """Index of the camera that made each observation (M,)."""
    place = {number: index for index, number in enumerate(model.cameras.numbers)}
    return torch.tensor([place[int(number)] for number in model.observed_frame]).long()


def _residuals(model: Model, of_camera: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels off (M,) and depth (M,) of every observation."""
    if not len(of_camera):
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    poses = model.cameras.world_to_camera[of_camera]
    points = model.points[model.observed_point]
    inside = torch.einsum("mij,mj->mi", poses[:, :3, :3], points) + poses[:, :3, 3]
    pixels = inside @ model.cameras.intrinsics.T
    off = pixels[:, :2] / pixels[:, 2:] - model.observed_at
    return off.norm(dim=1), inside[:, 2]


def _angle(model: Model, of_camera: Tensor) -> float:
    """Median over points of the widest angle between the rays that see them, degrees."""
    if not len(of_camera):
        return float("nan")
    centres = model.cameras.centres
    widest = []
    order = torch.argsort(model.observed_point, stable=True)
    sizes = torch.bincount(model.observed_point, minlength=len(model.points)).tolist()
    for point, seen in zip(model.points, of_camera[order].split(sizes), strict=True):
        rays = torch.nn.functional.normalize(point - centres[seen], dim=1)
        if len(rays) > 1:
            widest.append(float((rays @ rays.T).min()))
    if not widest:
        return float("nan")
    cosine = torch.tensor(widest, dtype=torch.float64).clamp(-1, 1)
    return float(torch.rad2deg(torch.arccos(cosine)).median())
