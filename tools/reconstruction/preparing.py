"""From a video to what a fit needs: frames, masks, cameras, depth and first points."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.reconstruction.cameras.files import read_cameras
from tools.reconstruction.cameras.judge import Verdict
from tools.reconstruction.cameras.masks import automatic_masks, read_user_masks
from tools.reconstruction.cameras.pinhole import Cameras
from tools.reconstruction.cameras.point_files import read_points
from tools.reconstruction.cameras.search import CameraOptions, Found, find_cameras, no_points
from tools.reconstruction.depth.points import depth_at_points
from tools.reconstruction.depth.sources import (
    DepthMaps,
    Depths,
    Kind,
    load_network,
    network_depth,
    read_given,
    resized_depth,
    scale_to_points,
    shading_depth,
    to_points,
    with_free_unit,
)
from tools.reconstruction.frames import Clip, Pictures, fitted_size, resized
from tools.reconstruction.settings import Reconstruction
from tools.reconstruction.splatting.rendering import every_camera
from tools.reconstruction.truth import Truth, of_clip

Mask = NDArray[np.bool_]

CPU_SIDE, GPU_SIDE = 96, 640  # pixels of the longer side of a fit
NETWORKS = (".pt", ".pth", ".ts", ".torchscript", ".jit")
LEAST_SEEN = 0.02  # of the pixels: a mask that leaves less hides the frame


@dataclass(frozen=True)
class Frames:
    """The frames of a clip at the size of the fit."""

    clip: Clip
    pictures: Pictures  # (F, h, w, 3)
    masks: Mask  # (F, h, w) True where a pixel is used
    whole_masks: Mask  # (F, H, W) the same at the size of the file

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)"""
        height, width = self.pictures.shape[1:3]
        return height, width


def prepare_frames(clip: Clip, settings: Reconstruction, device: torch.device) -> Frames:
    """Masks at the size of the file, then both at the size of the fit.

    Raises:  FileNotFoundError, ValueError for masks that do not fit the frames
    """
    masks = automatic_masks(torch.from_numpy(clip.pictures)).numpy()
    if settings.masks is not None:
        masks &= _user_masks(Path(settings.masks), clip)
    if float(masks.mean()) < LEAST_SEEN:
        raise ValueError(
            f"{clip.name}: masks, black border and highlights leave {masks.mean():.1%} of the "
            f"pixels; nothing is left to make a scene of"
        )
    longest = settings.frames.size or (GPU_SIDE if device.type == "cuda" else CPU_SIDE)
    tall, wide = clip.pictures.shape[1:3]
    height, width = fitted_size(tall, wide, longest)
    small = torch.nn.functional.interpolate(
        torch.from_numpy(masks)[:, None].float(), (height, width), mode="area"
    )
    return Frames(
        clip,
        resized(clip.pictures, height, width),
        (small[:, 0] > 0.99).numpy(),  # a pixel with a part of the border has its colour
        masks,
    )


def prepare_cameras(frames: Frames, settings: Reconstruction, truth: Truth, folder: Path) -> Found:
    """Cameras of the frames, numbered by frame of the clip, at the size of the file.

    Raises:  FileNotFoundError, ValueError in one line
    """
    clip, wanted = frames.clip, settings.cameras
    if wanted.source == "given" or wanted.poses is not None:
        return _given(clip, settings, truth)
    options = CameraOptions(
        source=wanted.source,
        field_of_view=wanted.field_of_view,
        view_known=wanted.view_known,
        depth=settings.depth.source != "none",
        judge=wanted.judge,
        seed=settings.seed,
        threads=wanted.threads,
        time_limit=wanted.time_limit,
    )
    pictures = torch.from_numpy(clip.pictures)
    return find_cameras(pictures, torch.from_numpy(frames.whole_masks), options, folder)


def check_depth(clip: Clip, settings: Reconstruction, truth: Truth) -> None:
    """Refuse a source of depth that cannot work before the long search for cameras.

    Raises:  FileNotFoundError, ValueError in one line
    """
    name = settings.depth.source
    if name == "none" and settings.cameras.source == "fixed":
        raise ValueError(
            "one fixed camera has no parallax to tell depth by: add --depth MAPS or NETWORK, or "
            "--depth shading for a guess from brightness"
        )
    if name == "truth":
        if truth.depths is None:
            raise ValueError("depth.source=truth needs a simulated clip (--simulate SEED)")
    elif Path(name).suffix.lower() in NETWORKS:
        load_network(Path(name))
    elif name not in ("none", "shading"):
        read_given(Path(name), clip.numbers, clip.length)


def prepare_depth(
    frames: Frames,
    found: Found,
    cameras: Cameras,
    settings: Reconstruction,
    truth: Truth,
    device: torch.device,
) -> DepthMaps:
    """Depth of every frame in the unit of the cameras.

    Inputs:  cameras of the fit, at its size
    Raises:  FileNotFoundError, ValueError in one line
    """
    name = settings.depth.source
    points = found.points.positions
    if name == "none" and not len(points):
        raise ValueError(
            "no depth to start from: the given cameras come without points; add --depth MAPS in "
            "their unit, or give a COLMAP model with its points3D.txt"
        )
    everywhere = replace(
        cameras,
        world_to_camera=torch.stack(
            [each.world_to_camera for each in every_camera(cameras, len(frames.pictures))]
        ),
        numbers=tuple(range(len(frames.pictures))),
    )
    if name == "none" or (name == "shading" and len(points)):
        return _depth_of_points(everywhere, points, name)
    if name != "shading" and Path(name).suffix.lower() not in NETWORKS:
        return _given_depth(frames, everywhere, points, name, truth)
    return _guessed_depth(frames, everywhere, points, settings, device)


def fingerprint(frames: Frames) -> str:
    """A short text that changes with any pixel that the scene is made from."""
    digest = hashlib.blake2b(digest_size=12)
    for array in (frames.pictures, frames.masks):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr(frames.clip.numbers).encode())
    return digest.hexdigest()


def _given(clip: Clip, settings: Reconstruction, truth: Truth) -> Found:
    """Known cameras: from a file, or those of the simulator."""
    if settings.cameras.poses is None:
        if truth.cameras is None:
            raise ValueError(
                "cameras.source=given needs a file of cameras: --poses FILE (COLMAP text, TUM, "
                "transforms.json, the simulator's truth)"
            )
        cameras, points = truth.cameras, no_points()
    else:
        height, width = clip.pictures.shape[1:3]
        lens = settings.cameras.field_of_view
        every = read_cameras(Path(settings.cameras.poses), clip.length, height, width, lens)
        cameras, points = of_clip(every, clip), read_points(Path(settings.cameras.poses))
    figures = {"frames": len(cameras), "view": cameras.field_of_view}
    return Found(cameras, points, Verdict(True, "given", figures))


def _given_depth(
    frames: Frames, cameras: Cameras, points: Tensor, name: str, truth: Truth
) -> DepthMaps:
    if name == "truth" and truth.depths is not None:
        depths = truth.depths
    else:
        depths = read_given(Path(name), frames.clip.numbers, frames.clip.length)
    depths = resized_depth(depths, *frames.size)
    if not len(points):
        return DepthMaps(depths, "given", "in its own unit")
    factor = scale_to_points(depths, cameras, points, frames.masks)
    return DepthMaps(
        depths * np.float32(factor), "given", f"scaled by {factor:.4g} to COLMAP's unit"
    )


def _depth_of_points(cameras: Cameras, points: Tensor, asked: str) -> DepthMaps:
    values = depth_at_points(cameras, points).numpy()
    note = f"{(values > 0).mean():.0%} of the pixels, where the cameras' points fall"
    if asked == "shading":
        note += "; shading is left out, because parallax tells depth better than brightness"
    return DepthMaps(values, "points", note)


def _guessed_depth(
    frames: Frames,
    cameras: Cameras,
    points: Tensor,
    settings: Reconstruction,
    device: torch.device,
) -> DepthMaps:
    kind: Kind
    inverse: Depths
    if settings.depth.source == "shading":
        kind, source = "shading", "a guess from brightness"
        inverse = shading_depth(frames.pictures, frames.masks)
    else:
        network, side = load_network(Path(settings.depth.source)), settings.depth.network_side
        kind, source = "model", "of a network"
        inverse = network_depth(network, frames.pictures, frames.masks, device, side)
    if len(points):
        aligned = to_points(inverse, cameras, points, frames.masks)
        return DepthMaps(aligned, kind, f"{source}, scale and shift of each frame from the points")
    if cameras.source != "fixed":
        raise ValueError(
            f"depth.source={settings.depth.source} knows no unit, and given cameras bring no "
            f"points to find it: give depth maps in the unit of the poses (--depth FOLDER)"
        )
    free = with_free_unit(inverse, frames.masks, has_zero=kind == "shading")
    unit = "up to scale" if kind == "shading" else "up to scale and shift"
    return DepthMaps(free, kind, f"{source}, {unit}: the median is called 1")


def _user_masks(path: Path, clip: Clip) -> Mask:
    """Masks of the chosen frames: one for all, one for each chosen, or one a frame of the video."""
    height, width = clip.pictures.shape[1:3]
    count = len(clip.numbers)
    if path.is_dir():
        held = sum(1 for each in path.iterdir() if each.suffix.lower() in (".png", ".jpg", ".bmp"))
        if held == clip.length:
            return read_user_masks(path, held, height, width).numpy()[list(clip.numbers)]
    return read_user_masks(path, count, height, width).numpy()
