"""Read and write single images. The formats are Pillow's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from configs.errors import naming

ImageFormat = Literal["jpg", "png"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
JPEG_QUALITY = 95


def read_image(path: Path | str) -> Tensor:
    """One image as (3, H, W) uint8 RGB.

    Raises:  FileNotFoundError, ValueError naming the file where it is broken
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))  # (H, W, 3)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: not readable as an image: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def write_image(path: Path, image: Tensor) -> None:
    """Write (3, H, W) uint8 RGB; the suffix says how (.jpg at quality 95, .png lossless).

    Colours of a JPEG keep the full resolution: halved, they bleed over the edges of small frames.

    Raises:  OSError naming the file where it cannot be written
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    # Pillow itself overlooks that a full disk took only a part of a JPEG.
    encoded = io.BytesIO()
    if path.suffix == ".jpg":
        picture.save(encoded, "jpeg", quality=JPEG_QUALITY, subsampling=0)
    else:
        # A third of the time of level 6 for a few per cent.
        picture.save(encoded, "png", compress_level=3)
    with naming(path):
        path.write_bytes(encoded.getbuffer())
