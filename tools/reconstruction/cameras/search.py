"""Cameras for the frames of a clip: found by COLMAP, or one that stays where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tools.reconstruction.cameras.colmap import MAPPERS, Colmap, ColmapError, Matches, Model
from tools.reconstruction.cameras.figures import (
    ModelFigures,
    measure_model,
    path_disagreement,
    point_errors,
)
from tools.reconstruction.cameras.judge import (
    WAYS_OUT,
    WAYS_OUT_APART,
    WAYS_OUT_STILL,
    Limits,
    Verdict,
    apart,
    objections,
    plain_figures,
    still,
    unconfirmed,
)
from tools.reconstruction.cameras.motion import Motion, measure_motion
from tools.reconstruction.cameras.pinhole import Cameras, fixed_cameras

FEWEST = 3  # frames

Source = Literal["auto", "colmap", "fixed"]


@dataclass(frozen=True)
class CameraOptions:
    """How cameras are found."""

    source: Source = "auto"
    field_of_view: float = 90.0  # horizontal, degrees: start of COLMAP's search, or the fixed lens
    view_known: bool = False  # keep the field of view as it is
    depth: bool = False  # a source of depth exists, so a camera that stands still is of use
    judge: bool = True  # False: keep COLMAP's largest model whatever its figures
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    threads: int = -1  # of COLMAP; -1 all cores
    time_limit: float = 900.0  # seconds for each run of COLMAP


@dataclass(frozen=True)
class SparsePoints:
    """Points that several cameras see."""

    positions: Tensor  # (N, 3) float64, world
    colours: Tensor  # (N, 3) float32 in [0, 1]
    errors: Tensor  # (N,) mean reprojection error, pixels at the size that COLMAP saw


@dataclass(frozen=True)
class Found:
    """Cameras, None where there are none to go on with, and the reasons."""

    cameras: Cameras | None  # for frames of the given height and width
    points: SparsePoints
    verdict: Verdict


@dataclass(frozen=True)
class Judged:
    """A model and its figures."""

    model: Model
    figures: ModelFigures
    disagreement: float | None = None  # with the path of the mapper before


def no_points() -> SparsePoints:
    """No points at all."""
    return SparsePoints(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3), torch.zeros(0))


def find_cameras(
    frames: Tensor, masks: Tensor | None, options: CameraOptions, folder: Path
) -> Found:
    """Find the cameras of a clip.

    Args:
        frames: (F, H, W, 3) uint8.
        masks: (F, H, W) bool, True where a pixel may be used; None for all.
        options: where cameras come from.
        folder: for COLMAP's files; made if absent.

    Raises:
        ValueError: too few frames, or masks of another shape.
    """
    check_frames(frames, masks)
    count, height, width = (int(side) for side in frames.shape[:3])
    if options.source == "fixed":
        cameras = fixed_cameras(height, width, count, options.field_of_view)
        return Found(cameras, no_points(), Verdict(True, "fixed", {}, ("asked for",)))
    return _search(frames, masks, options, folder)


def check_frames(frames: Tensor, masks: Tensor | None) -> None:
    """Refuse what is no clip to reconstruct.

    Raises:
        ValueError: fewer than `FEWEST` frames, or masks of another shape.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != torch.uint8:
        shape = f"{frames.dtype} {tuple(frames.shape)}"
        raise ValueError(f"frames must be uint8 of shape (F, H, W, 3), not {shape}")
    if len(frames) < FEWEST:
        raise ValueError(
            f"{len(frames)} frames are too few for a scene; give {FEWEST} or more (a clip of 16)"
        )
    if masks is not None and masks.shape != frames.shape[:3]:
        sizes = f"{tuple(masks.shape)} do not fit frames {tuple(frames.shape[:3])}"
        raise ValueError(f"masks of shape {sizes}")


def _search(frames: Tensor, masks: Tensor | None, options: CameraOptions, folder: Path) -> Found:
    """Motion test, then each mapper until the judge is content."""
    motion, best, matches = None, None, None
    reasons: tuple[str, ...] = ()
    try:
        colmap = Colmap(
            folder,
            frames,
            masks,
            field_of_view=options.field_of_view,
            view_known=options.view_known,
            seed=options.seed,
            threads=options.threads,
            time_limit=options.time_limit,
        )
        matches = colmap.match()
        motion = measure_motion(matches)
        rest = still(motion, options.limits) if options.source == "auto" else None
        if rest is not None:
            return _without(frames, options, motion, None, (rest,), True)
        best, reasons = _best_model(colmap, matches, motion, options)
    except ColmapError as error:
        reasons = (str(error),)
    if best is None or (reasons and options.judge):
        return _without(frames, options, motion, best, reasons)
    height, width = frames.shape[1:3]
    verdict = Verdict(True, "colmap", _figures(motion, best), reasons)
    model = best.model
    points = SparsePoints(model.points, point_colours(model, frames), point_errors(model).float())
    return Found(model.cameras.resized(height, width), points, verdict)


def _best_model(
    colmap: Colmap, matches: Matches, motion: Motion, options: CameraOptions
) -> tuple[Judged | None, tuple[str, ...]]:
    """The first model that the judge takes, else the one with most frames, and why not."""
    best: Judged | None = None
    limits = options.limits
    frames = len(matches.features)
    reasons = objections(None, motion, frames, options.limits)
    if motion.pairs == 0:
        return best, reasons  # nothing to build from: COLMAP would only say so at length
    for mapper in MAPPERS:
        model = colmap.build(mapper)
        if model is None:
            continue
        figures = measure_model(model, matches)
        against = objections(figures, motion, frames, limits, view_known=options.view_known)
        differ = None
        if mapper != MAPPERS[0]:
            if best is not None:
                differ = path_disagreement(best.model.cameras, model.cameras, limits.frames)
            against += unconfirmed(differ, limits)
        if best is None or not against or figures.frames > best.figures.frames:
            best, reasons = Judged(model, figures, differ), against
        if not against:
            break
    return best, reasons


def _without(
    frames: Tensor,
    options: CameraOptions,
    motion: Motion | None,
    best: Judged | None,
    reasons: tuple[str, ...],
    stands: bool = False,
) -> Found:
    """One camera for all frames where depth and one view make a scene of that, else a refusal."""
    count, height, width = (int(side) for side in frames.shape[:3])
    figures = _figures(motion, best)
    advice = WAYS_OUT_STILL if stands else WAYS_OUT
    scattered = None if motion is None else apart(motion, options.limits)
    if options.source == "auto" and scattered is not None:
        reasons, advice = (*reasons, scattered), WAYS_OUT_APART
    elif options.source == "auto" and options.depth:
        cameras = fixed_cameras(height, width, count, options.field_of_view)
        advice = "One fixed camera with depth is used instead: all change is deformation."
        return Found(cameras, no_points(), Verdict(True, "fixed", figures, reasons, advice, stands))
    return Found(None, no_points(), Verdict(False, "refused", figures, reasons, advice, stands))


def point_colours(model: Model, frames: Tensor) -> Tensor:
    """Mean colour (N, 3) in [0, 1] of each point where frames (F, H, W, 3) uint8 see it."""
    height, width = frames.shape[1:3]
    size = torch.tensor([model.cameras.width, model.cameras.height])
    places = model.observed_at / size * torch.tensor([width, height])
    columns = places[:, 0].long().clamp(0, width - 1)
    rows = places[:, 1].long().clamp(0, height - 1)
    seen = frames[model.observed_frame, rows, columns].float() / 255
    count = len(model.points)
    sums = torch.zeros(count, 3).index_add_(0, model.observed_point, seen)
    return sums / torch.bincount(model.observed_point, minlength=count).clamp(min=1)[:, None]


def _figures(motion: Motion | None, best: Judged | None) -> dict[str, Any]:
    figures = plain_figures(motion, best.figures if best is not None else None)
    if best is not None:
        figures |= {"mapper": best.model.mapper, "models": list(best.model.sizes)}
        figures |= {"disagreement": best.disagreement}
    return figures
