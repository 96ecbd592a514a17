"""Depth maps as files: 16-bit PNG with a scale beside them, and arrays."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from configs.errors import naming
from datasets.sources import natural_order
from tools.training.files import whole_file

Depths = NDArray[np.float32]  # (F, H, W), 0 where unknown

LEVELS = 65535
SCALE_FILE = "scale.json"


def write_depth_pictures(folder: Path, depths: Depths) -> float:
    """Write `00000.png` ... of 16 bits and `scale.json`; the unit of a grey level.

    Inputs:  depths (F, H, W), 0 or more; what is not finite is written as 0, unknown
    Raises:  OSError naming the file that cannot be written
    """
    known = np.where(np.isfinite(depths), depths, 0).clip(min=0)
    unit = float(known.max()) / LEVELS or 1.0
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for index, depth in enumerate(known):
        levels = np.round(depth / unit).astype(np.uint16)
        encoded = io.BytesIO()
        Image.fromarray(levels).save(encoded, "png", compress_level=3)
        with whole_file(folder / f"{index:05d}.png") as file:
            file.write(encoded.getvalue())
    content = {"depth_per_level": unit, "unknown": 0, "depth": "z, in the unit of the cameras"}
    with whole_file(folder / SCALE_FILE) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    return unit


def read_depth(path: Path) -> Depths:
    """Depth maps (F, H, W) of a video from .npz (array `depth`), .npy, or a folder of pictures.

    Pictures of a folder are taken in natural order of their names; `scale.json` beside them gives
    the unit of a grey level, else it is 1.
    Raises:  FileNotFoundError, ValueError in one line
    """
    if path.is_dir():
        depths = _read_pictures(path)
    elif not path.is_file():
        raise FileNotFoundError(f"{path}: no such depth file or folder")
    elif path.suffix.lower() in (".npz", ".npy"):
        depths = _read_array(path)
    else:
        raise ValueError(f"{path}: depth maps are .npz, .npy, or a folder of PNG pictures")
    if depths.ndim != 3 or not depths.size:
        raise ValueError(f"{path}: depth of shape {depths.shape}; (frames, height, width) needed")
    if (depths[np.isfinite(depths)] < 0).any():
        raise ValueError(f"{path}: holds negative depths; depth is z, 0 where unknown")
    depths = np.where(np.isfinite(depths), depths, 0).astype(np.float32)
    if not (depths > 0).any():
        raise ValueError(f"{path}: holds no depth above 0")
    return depths


def _read_array(path: Path) -> NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if "depth" not in loaded:
                raise ValueError(f"no array `depth`, only {', '.join(loaded.files) or 'nothing'}")
            return loaded["depth"].astype(np.float32)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no depth maps: {error}") from None


def _read_pictures(folder: Path) -> Depths:
    names = natural_order(
        each.name for each in folder.iterdir() if re.search(r"\.(png|tiff?)$", each.name.lower())
    )
    if not names:
        raise ValueError(f"{folder}: no PNG pictures of depth in it")
    maps = [_read_picture(folder / name) for name in names]
    if len({each.shape for each in maps}) > 1:
        raise ValueError(f"{folder}: its depth pictures differ in size")
    return np.stack(maps) * np.float32(_unit(folder / SCALE_FILE))


def _read_picture(path: Path) -> Depths:
    try:
        with Image.open(path) as image:
            values = np.array(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: not readable as an image: {error}") from None
    return (values if values.ndim == 2 else values[..., 0]).astype(np.float32)


def _unit(path: Path) -> float:
    if not path.is_file():
        return 1.0
    try:
        return float(json.loads(path.read_text())["depth_per_level"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no scale of depth pictures: {error}") from None
