"""The numbers of a finished scene: against frames it never saw, and against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.priors.perceptual import PerceptualDistance
from tools.reconstruction.cameras.pinhole import Cameras
from tools.reconstruction.depth.sources import resized_depth
from tools.reconstruction.frames import resized
from tools.reconstruction.preparing import Frames
from tools.reconstruction.results.quality import compare_depths, compare_pictures
from tools.reconstruction.splatting.rendering import Film, Renders, film, novel_path
from tools.reconstruction.truth import Bridge, Truth, bridge, path_length

Numbers = dict[str, Any]

SEEN = 0.9  # opacity: below it a novel view looks past the scene, at what no frame has shown


def measure_frames(
    frames: Frames,
    rendered: Film,
    posed: Sequence[int],
    test: Sequence[int],
    perceptual: PerceptualDistance | None,
) -> Numbers:
    """PSNR, SSIM and LPIPS of the frames kept from the fit, and of those that were fitted.

    Inputs:  posed, frames with a pose of their own; test, those of them that no fit has seen
    """
    truths = frames.pictures.astype(np.float32) / np.float32(255)
    kinds = {"test": list(test), "training": [k for k in posed if k not in set(test)]}
    return {
        name: _plain(compare_pictures(rendered.colours[k], truths[k], frames.masks[k], perceptual))
        for name, k in kinds.items()
    }


def measure_depth(
    frames: Frames, rendered: Film, truth: Truth, link: Bridge | None
) -> Numbers | None:
    """Error of the rendered depth of all frames, where the truth is known."""
    if truth.depths is None:
        return None
    wanted = resized_depth(truth.depths, *frames.size)
    scale = link.scale if link is not None and link.alignment is not None else None
    return _plain(compare_depths(rendered.depths, wanted, frames.masks, scale))


def link_to_truth(cameras: Cameras, rendered: Film, frames: Frames, truth: Truth) -> Bridge | None:
    """How the reconstruction's world lies in that of the truth; None where no poses are known."""
    if truth.cameras is None:
        return None
    ratio = 1.0
    if truth.depths is not None:
        wanted = resized_depth(truth.depths, *frames.size)
        use = (wanted > 0) & (rendered.depths > 0) & frames.masks
        ratio = float(np.median(wanted[use] / rendered.depths[use])) if use.any() else 1.0
    return bridge(cameras, truth.cameras, ratio)


def measure_poses(cameras: Cameras, truth: Truth, link: Bridge | None) -> Numbers | None:
    """Errors of found cameras after the similarity that fits best; None without truth."""
    if link is None or truth.cameras is None or link.alignment is None:
        return None
    way = path_length(truth.cameras)
    rmse = link.alignment.rmse
    return {
        "position_rmse": rmse,
        "path": way,
        "share_of_path": rmse / way if way > 0 else None,
        "turn_degrees": float(link.alignment.turns.mean()),
        "scale": link.scale,
        "view_degrees": cameras.field_of_view,
        "true_view_degrees": truth.cameras.field_of_view,
        "frames": len(link.alignment.errors),
    }


def measure_novel(
    scene: Renders,
    frames: Frames,
    cameras: Cameras,
    truth: Truth,
    link: Bridge | None,
    distance: float,
    perceptual: PerceptualDistance | None,
) -> tuple[Numbers, Film, NDArray[np.uint8]] | None:
    """Views from places where no camera was, against what the simulator sees from there.

    The scene is seen through the lens that was found or assumed, as all of it was made by that.

    Inputs:  distance, in median depths of the truth
    Output:  the numbers, what the scene shows, and the truth (F, h, w, 3); None where only files
             tell the truth
    """
    if truth.view is None or truth.cameras is None or truth.depths is None or link is None:
        return None
    middle = float(np.median(truth.depths[truth.depths > 0]))
    known = truth.cameras
    path = novel_path([known.camera(k) for k in range(len(known))], distance * middle)
    pictures, depths, mask = truth.view(path, [frames.clip.numbers[k] for k in known.numbers])
    height, width = frames.size
    lens = cameras.intrinsics
    through = [
        replace(link.to_found(camera).resized(height, width), intrinsics=lens) for camera in path
    ]
    times = frames.clip.times[list(known.numbers)]
    seen = film(scene, through, times.tolist())
    wanted, masks = _small(pictures, mask, height, width)
    # Past the edges of what the frames showed nothing can be known: it is counted apart.
    covered = masks & (seen.opacities > SEEN)
    real = wanted.astype(np.float32) / np.float32(255)
    numbers = {
        "all": _plain(compare_pictures(seen.colours, real, masks, perceptual)),
        "covered": _plain(compare_pictures(seen.colours, real, covered, None)),
        "covered_share": float(covered.sum() / max(masks.sum(), 1)),
        "distance_in_median_depths": distance,
        "depth": _plain(
            compare_depths(seen.depths, resized_depth(depths, height, width), covered, link.scale)
        ),
    }
    return numbers, seen, wanted


def median_depth(rendered: Film, masks: NDArray[np.bool_]) -> float:
    """Of the pixels where the scene is seen; 1 where there are none."""
    known = rendered.depths[masks & (rendered.depths > 0)]
    return float(np.median(known)) if len(known) else 1.0


def _small(
    pictures: NDArray[np.uint8], mask: NDArray[np.bool_], height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    shade = np.repeat(np.uint8(255) * mask[None, ..., None].astype(np.uint8), 3, axis=3)
    whole = resized(shade, height, width)[0, ..., 0] == 255
    return resized(pictures, height, width), np.broadcast_to(whole, (len(pictures), height, width))


def _plain(numbers: Any) -> Numbers | None:
    if numbers is None:
        return None
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in asdict(numbers).items()
    }
