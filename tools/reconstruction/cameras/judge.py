"""Whether cameras that COLMAP found can be trusted.

COLMAP reports success for a still camera before moving tissue, with invented poses, so its word is
not enough. `judge` compares the figures of a model with limits; all figures are kept, whichever
way it went, because the limits come from few clips and may have to change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tools.reconstruction.cameras.figures import ModelFigures
from tools.reconstruction.cameras.motion import Motion

Kind = Literal["given", "colmap", "fixed", "refused"]

# What to do where there are no cameras to go on with, by what the motion test said.
WAYS_OUT = (
    "Options: --poses FILE of known cameras; more or larger frames (--frames 32, a model of 256 "
    "pixels); --judge off to keep what COLMAP found; --cameras fixed with --depth MAPS or NETWORK "
    "where the camera stands still"
)
WAYS_OUT_STILL = (
    "Options: one fixed camera, all change being deformation, with a source of depth: --depth MAPS "
    "or NETWORK, or --depth shading for a guess from brightness; --poses FILE of known cameras"
)
WAYS_OUT_APART = (
    "Options: frames closer in time (frames.start, frames.stop), or larger ones; --poses FILE of "
    "known cameras; --cameras fixed with a source of depth to insist on one view"
)


@dataclass(frozen=True)
class Limits:
    """What a clip and a model must reach.

    Where the limits lie between: on simulated clips (16 frames of 128 pixels, tissue at rest or
    moving) with a travelling camera matches moved 0.029 to 0.061 of the width, with a still one
    0.006 to 0.015; good models lay 0.47 to 0.70 pixels off (incremental mapper) and explained 0.68
    or more of the matches, wrong ones on real clips 0.80 and more or 0.04 to 0.13. The global
    mapper, whose pixels say little, differed by 0.01 to 0.07 from a good first path, and by 0.11
    or more where one of the two was wrong. Before a still camera and moving tissue COLMAP makes
    models with good figures: the motion test alone tells them.
    """

    motion: float = 0.02  # median motion of verified matches, as a share of the width
    frames_share: float = 0.8
    frames: int = 8
    points: int = 100
    track: float = 3.0  # mean number of frames that see a point
    reprojection: float = 0.75  # pixels at the size that COLMAP saw
    view: tuple[float, float] = (40.0, 150.0)  # degrees, when it was free
    angle: float = 2.0  # degrees, median over points of the widest angle between their rays
    jump: float = 10.0  # longest step of the camera over the median step
    explained: float = 0.15  # share of the matched features that belong to a point of the model
    disagreement: float = 0.1  # between the paths of two mappers, share of the path's extent


@dataclass(frozen=True)
class Verdict:
    """What is known about a clip's cameras and what follows."""

    accepted: bool  # there are cameras to go on with
    kind: Kind
    figures: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()  # why refused, or why fixed
    advice: str = ""
    still: bool = False  # the motion test ended the search

    @property
    def outcome(self) -> Literal["passed", "still", "refused"]:
        """What the clip counts as when clips are counted."""
        if self.still:
            return "still"
        return "refused" if self.kind in ("fixed", "refused") else "passed"

    @property
    def text(self) -> str:
        """Reasons and advice in one line."""
        return ". ".join(part for part in ("; ".join(self.reasons), self.advice) if part)


def still(motion: Motion, limits: Limits) -> str | None:
    """Why the view does not travel far enough, None where it does or nothing is known."""
    if not motion.known or motion.median >= limits.motion:
        return None
    return (
        f"the view hardly travels: verified matches move {motion.median:.3f} of the width "
        f"(median; a moving camera needs {limits.motion:g})"
    )


def apart(motion: Motion, limits: Limits) -> str | None:
    """Why the frames are not of one view, None where they may be.

    A camera that stands still shows much the same in every frame. Frames without anything in
    common are of unrelated scenes, or too smooth to tell: a fit with one camera would be their
    mean.
    """
    needed = math.ceil(limits.frames_share * motion.frames)
    if motion.together >= needed:
        return None
    alike = "no two frames have" if motion.pairs == 0 else f"only {motion.together} frames have"
    return f"{alike} enough in common to be of one scene ({needed} of {motion.frames} needed)"


def objections(
    figures: ModelFigures | None,
    motion: Motion,
    frames: int,
    limits: Limits,
    *,
    view_known: bool = False,
) -> tuple[str, ...]:
    """What speaks against a model, nothing where it can be trusted.

    Args:
        figures: of the largest model; None where COLMAP made none.
        motion: of the clip, for the text.
        frames: in the clip.
        limits: to compare with.
        view_known: the field of view was given, so it says nothing.
    """
    seen = f"{motion.pairs} verified pairs, median match motion {motion.median:.3f} of the width"
    if motion.pairs == 0:
        seen = f"no verified pair of frames, {motion.features:.0f} features in a frame"
    needed = max(limits.frames, math.ceil(limits.frames_share * frames))
    if figures is None:
        return (f"COLMAP placed 0 of {frames} frames (needs {needed}): {seen}",)
    against = []
    if figures.frames < needed:
        against.append(f"COLMAP placed {figures.frames} of {frames} frames (needs {needed})")
    if figures.points < limits.points:
        against.append(f"{figures.points} points (needs {limits.points})")
    if not figures.track >= limits.track:
        against.append(f"{figures.track:.1f} frames see a point (needs {limits.track:g})")
    if not figures.reprojection <= limits.reprojection:
        against.append(
            f"points lie {figures.reprojection:.2f} pixels off (at most {limits.reprojection:g})"
        )
    low, high = limits.view
    if not view_known and not low <= figures.view <= high:
        against.append(f"field of view {figures.view:.0f} degrees (from {low:g} to {high:g})")
    if not figures.angle >= limits.angle:
        against.append(
            f"rays to a point meet at {figures.angle:.1f} degrees (needs {limits.angle:g})"
        )
    if not figures.jump <= limits.jump:
        against.append(
            f"one step of the camera is {figures.jump:.0f} times the usual one "
            f"(at most {limits.jump:g})"
        )
    if not figures.explained >= limits.explained:
        against.append(
            f"the model explains {figures.explained:.0%} of the matched features "
            f"(needs {limits.explained:.0%})"
        )
    if against:
        against[-1] += f"; {seen}"
    return tuple(against)


def unconfirmed(disagreement: float | None, limits: Limits) -> tuple[str, ...]:
    """What speaks against the model of a second mapper, beside its figures.

    The second mapper makes a path of whatever few matches agree, so it is believed only where
    the first, though its own figures did not suffice, found the same path.

    Args:
        disagreement: of the two paths, from `path_disagreement`; None where the first found none.
        limits: to compare with.
    """
    if disagreement is None:
        return ("only one of two mappers found a path",)
    if disagreement > limits.disagreement:
        return (
            f"the paths of two mappers differ by {disagreement:.0%} of their extent "
            f"(at most {limits.disagreement:.0%})",
        )
    return ()


def plain_figures(motion: Motion | None, model: ModelFigures | None) -> dict[str, Any]:
    """Figures by name, for reports and JSON; what is not known is None."""
    named: dict[str, Any] = {}
    if motion is not None:
        named |= {f"motion_{name}": value for name, value in asdict(motion).items()}
    if model is not None:
        named |= asdict(model)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in named.items()
    }
