"""Where the depth of frames comes from, and how it gets the unit of the cameras.

given     depth maps of the same frames, z-depth: truth of the simulator, stereo, an earlier run
points    none was asked for: the points that COLMAP found, at the pixels that they fall on
model     a network that sees one picture, as TorchScript; relative inverse depth as of MiDaS
shading   no network: an endoscope carries its light, so what is far is dark. Brightness falls with
          the square of the distance, hence 1 / z is near the root of the brightness of the blurred
          picture. A guess that knows nothing of colour, for one fixed camera; where points are
          found they are by far better, and are taken instead.

Relative inverse depth r is brought to the cameras by 1 / z = a r + b, fitted in every frame to the
points that COLMAP found (reweighted least squares, after a start from the median of ratios).
Without points the unit is free: the median depth of the clip becomes 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Cameras
from tools.reconstruction.depth.files import read_depth
from tools.reconstruction.frames import Pictures

Depths = NDArray[np.float32]  # (F, H, W), 0 where unknown
Mask = NDArray[np.bool_]
Kind = Literal["given", "model", "points", "shading"]

GAMMA = 2.2  # of displayed pictures
BLUR = 0.02  # of the longer side: shading speaks of shape, not of vessels
MULTIPLE = 14  # sides that patch networks take
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as networks expect
FARTHEST = 8.0  # times the nearest: relative inverse depth without points has no zero of its own
FEWEST = 12  # points in a frame that its scale and shift are fitted to


@dataclass(frozen=True)
class DepthMaps:
    """Depth of every frame at the size of the fit."""

    values: Depths  # z in the unit of the cameras, 0 where unknown
    kind: Kind
    note: str  # what a reader must know of its unit


def read_given(path: Path, numbers: tuple[int, ...], length: int) -> Depths:
    """The given maps of the chosen frames, at their own size.

    Inputs:  numbers of the chosen frames in a video of `length` frames
    Raises:  ValueError where there are maps for another number of frames
    """
    depths = read_depth(path)
    if len(depths) == length:
        return depths[list(numbers)]
    if len(depths) == len(numbers):
        return depths
    raise ValueError(
        f"{path}: {len(depths)} depth maps for a video of {length} frames ({len(numbers)} of them "
        f"used); they belong to other frames"
    )


def resized_depth(depths: Depths, height: int, width: int) -> Depths:
    """Maps at another size; each pixel takes its nearest, so no depth between two surfaces."""
    tensor = torch.from_numpy(np.ascontiguousarray(depths))[:, None]
    return torch.nn.functional.interpolate(tensor, (height, width), mode="nearest-exact")[
        :, 0
    ].numpy()


def shading_depth(pictures: Pictures, masks: Mask) -> Depths:
    """Relative inverse depth (F, H, W) from brightness, above 0 where the mask is True."""
    bright = (torch.from_numpy(pictures).float() / 255).pow(GAMMA).mean(-1)[:, None]
    seen = torch.from_numpy(masks).float()[:, None]
    deviation = max(1.0, BLUR * max(pictures.shape[1:3]))
    # A blur that leaves masked pixels (highlights, the black border) out of every mean.
    smooth = _blur(bright * seen, deviation) / _blur(seen, deviation).clamp(min=1e-4)
    inverse = smooth.clamp(min=1e-4).sqrt()[:, 0].numpy()
    return np.where(masks, inverse, 0).astype(np.float32)


def load_network(path: Path) -> torch.jit.ScriptModule:
    """A TorchScript file.

    Raises:  FileNotFoundError, ValueError in one line
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such depth network; give a TorchScript file, depth maps (.npz, .npy, a "
            f"folder), or `shading`"
        )
    try:
        with warnings.catch_warnings():
            # TorchScript is on its way out, but it is what published depth networks come as.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise ValueError(f"{path}: not a TorchScript file: {reason}") from None


def network_depth(
    network: torch.nn.Module, pictures: Pictures, masks: Mask, device: torch.device, side: int
) -> Depths:
    """Relative inverse depth (F, H, W) of a network (1, 3, h, w) -> (1, h, w) or (1, 1, h, w).

    Inputs:  side, of the pictures that the network sees, rounded to multiples of 14
    Raises:  ValueError where the network cannot take pictures or gives something else
    """
    height, width = pictures.shape[1:3]
    scale = side / min(height, width)
    size = [MULTIPLE * max(1, round(each * scale / MULTIPLE)) for each in (height, width)]
    mean, deviation = (
        torch.tensor(each, device=device)[:, None, None] for each in (MEAN, DEVIATION)
    )
    network = network.to(device)
    maps = []
    for picture in pictures:
        image = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
        image = torch.nn.functional.interpolate(image, size, mode="bicubic", align_corners=False)
        try:
            with torch.inference_mode():
                found = network((image - mean) / deviation)
            tall, wide = found.shape[-2:]
            found = found.float().reshape(1, 1, tall, wide)
        except (RuntimeError, AttributeError, ValueError) as error:
            reason = " ".join(str(error).split())[-160:]
            raise ValueError(
                f"the depth network does not map (1, 3, {size[0]}, {size[1]}) to one map: {reason}"
            ) from None
        found = torch.nn.functional.interpolate(
            found, (height, width), mode="bilinear", align_corners=False
        )
        maps.append(found[0, 0].cpu().numpy())
    inverse = np.stack(maps).astype(np.float32)
    if not np.isfinite(inverse).all() or float(inverse.std()) == 0:
        raise ValueError("the depth network gives no depth: its maps are constant or not finite")
    return np.where(masks, inverse, np.nan).astype(np.float32)


def with_free_unit(inverse: Depths, masks: Mask, has_zero: bool) -> Depths:
    """Depth maps of median 1 from relative inverse depth, where nothing tells the unit.

    Inputs:  has_zero: inverse depth 0 means infinitely far (shading); otherwise the 1st and the
             99th percentile of the clip become the ends of a range of depth of 1 to 8
    """
    use = masks & np.isfinite(inverse)
    low, high = np.percentile(inverse[use], [1, 99])
    shifted = inverse if has_zero else inverse - low + (high - low) / (FARTHEST - 1)
    floor = max(float(np.percentile(shifted[use], 99)) / FARTHEST, 1e-6)
    depth = 1 / np.maximum(np.where(use, shifted, 1), floor)
    depth /= np.median(depth[use])
    return np.where(use, depth, 0).astype(np.float32)


def to_points(inverse: Depths, cameras: Cameras, points: Tensor, masks: Mask) -> Depths:
    """Depth maps in the unit of the cameras; frames with too few points take the clip's fit.

    Inputs:  cameras of every frame at the size of the maps; points (N, 3)
    Raises:  ValueError where no frame sees enough points
    """
    samples = [_samples(inverse[k], cameras, k, points, masks[k]) for k in range(len(cameras))]
    all_relative = np.concatenate([relative for relative, _ in samples])
    all_wanted = np.concatenate([wanted for _, wanted in samples])
    if len(all_wanted) < FEWEST:
        raise ValueError(
            f"only {len(all_wanted)} points of the cameras fall on known depth; {FEWEST} are "
            f"needed to bring it to their unit"
        )
    usual = robust_line(all_relative, all_wanted)
    # Beyond four times what the points span lies nothing that the fit could know.
    farthest, nearest = (float(each) for each in np.percentile(all_wanted, [1, 99]) * (0.25, 4))
    depths = []
    for values, (relative, wanted), mask in zip(inverse, samples, masks, strict=True):
        a, b = robust_line(relative, wanted) if len(relative) >= FEWEST else usual
        if a <= 0:
            a, b = usual
        aligned = np.clip(a * values + b, farthest, nearest)
        depths.append(np.where(mask & np.isfinite(values), 1 / aligned, 0))
    return np.stack(depths).astype(np.float32)


def scale_to_points(depths: Depths, cameras: Cameras, points: Tensor, masks: Mask) -> float:
    """The factor from the unit of given depth maps to that of cameras with points of their own."""
    inverse = np.where(depths > 0, 1 / np.maximum(depths, 1e-12), np.nan).astype(np.float32)
    samples = [_samples(inverse[k], cameras, k, points, masks[k]) for k in range(len(cameras))]
    found, wanted = (np.concatenate(each) for each in zip(*samples, strict=True))
    if len(found) < FEWEST:
        raise ValueError(
            f"only {len(found)} points of the cameras fall on given depth; {FEWEST} are needed to "
            f"bring it to their unit"
        )
    return float(np.median(found / wanted))


def robust_line(
    relative: NDArray[np.float64], wanted: NDArray[np.float64], rounds: int = 10
) -> tuple[float, float]:
    """a, b of wanted = a relative + b by least squares with weights 1 / (1 + (error / spread)²)."""
    a, b = float(np.median(wanted / np.maximum(relative, 1e-9))), 0.0
    for _ in range(rounds):
        error = wanted - a * relative - b
        spread = 1.4826 * float(np.median(np.abs(error))) + 1e-9 * float(np.abs(wanted).max())
        weight = 1 / (1 + (error / spread) ** 2)
        mean_r, mean_w = np.average(relative, weights=weight), np.average(wanted, weights=weight)
        variance = float((weight * (relative - mean_r) ** 2).sum())
        if variance <= 1e-12 * float((weight * relative**2).sum()):
            break
        a = float((weight * (relative - mean_r) * (wanted - mean_w)).sum()) / variance
        b = float(mean_w - a * mean_r)
    return a, b


def _samples(
    inverse: Depths, cameras: Cameras, index: int, points: Tensor, mask: Mask
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative and true inverse depth of the points that fall on known pixels of a frame."""
    camera = cameras.camera(index)
    pixels, depth = camera.project(points)
    places, z = pixels.numpy(), depth.numpy()
    with np.errstate(invalid="ignore"):
        column, row = np.floor(places[:, 0]), np.floor(places[:, 1])
    ahead = (z > 0) & (column >= 0) & (row >= 0)
    ahead &= (column < camera.width) & (row < camera.height)
    column, row, z = column[ahead].astype(int), row[ahead].astype(int), z[ahead]
    found = inverse[row, column]
    known = mask[row, column] & np.isfinite(found)
    return found[known].astype(np.float64), 1 / z[known]


def _blur(values: Tensor, deviation: float) -> Tensor:
    """(F, 1, H, W) by a Gaussian; outside counts as 0."""
    reach = int(3 * deviation)
    place = torch.arange(-reach, reach + 1, dtype=values.dtype)
    line = torch.exp(-(place**2) / (2 * deviation**2))
    line = (line / line.sum())[None, None, None]
    across = torch.nn.functional.conv2d(values, line, padding=(0, reach))
    return torch.nn.functional.conv2d(across, line.transpose(2, 3), padding=(reach, 0))
