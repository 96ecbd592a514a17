"""How like the truth a rendered picture, depth map or path is.

PSNR, SSIM (Wang et al. 2004: window of 11 pixels, deviation 1.5, constants 0.01 and 0.03) and the
absolute relative depth error are of the pixels that a mask leaves; LPIPS, which has no pixels of
its own, is of pictures whose masked pixels are set to those of the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.priors.perceptual import PerceptualConfig, PerceptualDistance, build_perceptual

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

WINDOW, DEVIATION = 11, 1.5  # pixels


@dataclass(frozen=True)
class PictureQuality:
    """Means over pictures."""

    psnr: float  # dB
    ssim: float
    lpips: float | None  # None: no weights were given
    count: int


@dataclass(frozen=True)
class DepthQuality:
    """Of all compared pixels together."""

    relative: float  # mean of |depth - truth| / truth
    within: float  # share of pixels with a ratio below 1.25
    correlation: float  # Pearson's, of inverse depths: blind to scale and shift
    alignment: str  # what was fitted before
    pixels: int


def psnr(picture: Floats, truth: Floats, mask: Mask) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1], over the pixels of a mask (H, W)."""
    error = float(np.square(np.clip(picture, 0, 1) - truth)[mask].mean()) if mask.any() else np.nan
    return float(-10 * np.log10(max(error, 1e-10)))


def ssim(picture: Floats, truth: Floats, mask: Mask) -> float:
    """Mean structural similarity over windows of which every pixel is in the mask.

    Inputs:  pictures (H, W, 3) in [0, 1]
    Output:  NaN where no window fits into the mask
    """
    x, y = (
        torch.from_numpy(np.clip(each, 0, 1)).permute(2, 0, 1)[None] for each in (picture, truth)
    )
    x, y = x.double(), y.double()
    seen = torch.from_numpy(mask.astype(np.float64))[None, None]
    whole = torch.nn.functional.avg_pool2d(seen, WINDOW, stride=1)[0, 0] > 1 - 1e-9
    if not bool(whole.any()):
        return float("nan")
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    shared = _blurred(x * y) - mean_x * mean_y
    likeness = ((2 * mean_x * mean_y + 1e-4) * (2 * shared + 9e-4)) / (
        (mean_x**2 + mean_y**2 + 1e-4) * (variance_x + variance_y + 9e-4)
    )
    return float(likeness[0].mean(0)[whole].mean())


def compare_pictures(
    pictures: Floats, truths: Floats, masks: Mask, perceptual: PerceptualDistance | None
) -> PictureQuality | None:
    """Quality of pictures (N, H, W, 3) in [0, 1]; None without any."""
    if not len(pictures):
        return None
    pairs = list(zip(pictures, truths, masks, strict=True))
    distance = None
    if perceptual is not None:
        filled = np.where(masks[..., None], np.clip(pictures, 0, 1), truths)
        distance = float(perceptual(_signed(filled), _signed(truths)).mean())
    return PictureQuality(
        psnr=float(np.mean([psnr(*pair) for pair in pairs])),
        ssim=float(np.mean([ssim(*pair) for pair in pairs])),
        lpips=distance,
        count=len(pairs),
    )


def perceptual_distance(weights: str, size: int) -> PerceptualDistance | None:
    """LPIPS by the weights of VGG-16 that the settings name; None for an empty name.

    Raises:  FileNotFoundError, ValueError in one line
    """
    if not weights:
        return None
    try:
        return build_perceptual(PerceptualConfig(name="lpips", weights=weights), size)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(
            str(error).replace("method.perceptual.weights", "quality.lpips")
        ) from None


def compare_depths(
    depths: Floats, truths: Floats, masks: Mask, scale: float | None = None
) -> DepthQuality | None:
    """Error of depth maps (N, H, W); pixels count where both are above 0 and the mask is True.

    Inputs:  scale from the units of `depths` to those of the truth, where something else tells it
             (the alignment of camera paths); None fits one factor, the median of ratios
    Output:  None where there is nothing to compare
    """
    use = masks & (depths > 0) & (truths > 0) & np.isfinite(depths)
    if not use.any():
        return None
    found, wanted = depths[use].astype(np.float64), truths[use].astype(np.float64)
    alignment = "scale of the cameras"
    if scale is None:
        scale, alignment = float(np.median(wanted / found)), "one factor for all frames"
    ratio = found * scale / wanted
    inverse = np.corrcoef(1 / found, 1 / wanted)[0, 1] if found.std() > 0 else np.nan
    return DepthQuality(
        relative=float(np.abs(ratio - 1).mean()),
        within=float((np.maximum(ratio, 1 / ratio) < 1.25).mean()),
        correlation=float(inverse),
        alignment=alignment,
        pixels=int(use.sum()),
    )


def held_out(count: int, every: int) -> list[int]:
    """Places of the frames that no fit sees: every `every`-th from the second on, at least two.

    The first and the last frame stay, so that nothing is judged outside of what was seen.
    Raises:  ValueError for fewer than 4 frames
    """
    if count < 4:
        raise ValueError(f"{count} frames: at least 4 are needed to keep two for a test")
    chosen = list(range(every // 2, count - 1, every)) if every else []
    if every and len(chosen) < 2:
        chosen = sorted({max(1, count // 3), min(count - 2, (2 * count) // 3)})
    return chosen


def _signed(pictures: Floats | Sequence[Floats]) -> Tensor:
    return torch.from_numpy(np.asarray(pictures, np.float32)).permute(0, 3, 1, 2) * 2 - 1


def _blurred(values: Tensor) -> Tensor:
    """(1, C, H, W) -> (1, C, H - 10, W - 10) by the Gaussian window."""
    place = torch.arange(WINDOW, dtype=values.dtype) - WINDOW // 2
    line = torch.exp(-(place**2) / (2 * DEVIATION**2))
    line = (line / line.sum()).expand(values.shape[1], 1, 1, WINDOW)
    across = torch.nn.functional.conv2d(values, line, groups=values.shape[1])
    down = line.transpose(2, 3)
    return torch.nn.functional.conv2d(across, down, groups=values.shape[1])
