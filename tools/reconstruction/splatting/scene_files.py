"""Gaussians as PLY in the layout that viewers of 3-D Gaussian splatting share.

One vertex a Gaussian, float32, raw parameters as they are trained: x y z, nx ny nz (zeros),
f_dc_0..2, f_rest_0.. (all coefficients of red, then green, then blue), opacity (logit),
scale_0..2 (logarithms), rot_0..3 (quaternion, real part first). The only file that knows plyfile.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyParseError

from tools.reconstruction.splatting.gaussians import Gaussians
from tools.training.files import whole_file

PLACE, NORMAL = ("x", "y", "z"), ("nx", "ny", "nz")
COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE, TURN = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")

Columns = NDArray[np.float32]  # (N, C)


def write_scene(path: Path, gaussians: Gaussians) -> None:
    """Write a PLY file (little-endian), whole or not at all."""
    harmonics = _numbers(gaussians.harmonics)  # (N, K, 3)
    count, bases = harmonics.shape[:2]
    rest = harmonics[:, 1:].transpose(0, 2, 1).reshape(count, -1)
    columns = {
        PLACE: _numbers(gaussians.positions),
        NORMAL: np.zeros((count, 3), np.float32),
        COLOUR: harmonics[:, 0],
        tuple(f"f_rest_{k}" for k in range(3 * (bases - 1))): rest,
        ("opacity",): _numbers(gaussians.opacity_logits)[:, None],
        SCALE: _numbers(gaussians.log_scales),
        TURN: _numbers(gaussians.rotations),
    }
    table = np.empty(count, dtype=[(name, "<f4") for names in columns for name in names])
    for names, values in columns.items():
        for index, name in enumerate(names):
            table[name] = values[:, index]
    encoded = io.BytesIO()
    PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(encoded)
    with whole_file(path) as file:
        file.write(encoded.getvalue())


def read_scene(path: Path) -> Gaussians:
    """The Gaussians of a PLY file.

    Raises:  FileNotFoundError; ValueError in one line where it holds something else
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such scene")
    try:
        vertices = PlyData.read(str(path))["vertex"]
        names = [each.name for each in vertices.properties]
        rest = sum(name.startswith("f_rest_") for name in names)
        bases = 1 + rest // 3
        if rest % 3 or bases not in (1, 4, 9, 16):
            raise ValueError(f"{rest} values of f_rest; 0, 9, 24 or 45 were expected")
        colour = _columns(vertices, COLOUR)[:, None]
        others = _columns(vertices, [f"f_rest_{k}" for k in range(rest)])
        others = others.reshape(len(colour), 3, bases - 1).transpose(0, 2, 1)
        return Gaussians(
            positions=_tensor(_columns(vertices, PLACE)),
            log_scales=_tensor(_columns(vertices, SCALE)),
            rotations=_tensor(_columns(vertices, TURN)),
            opacity_logits=_tensor(_columns(vertices, ("opacity",))[:, 0]),
            harmonics=_tensor(np.concatenate([colour, others], axis=1)),
        )
    except (PlyParseError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no scene of Gaussians: {error}") from None


def _columns(vertices: PlyElement, names: tuple[str, ...] | list[str]) -> Columns:
    if not names:
        return np.zeros((len(vertices), 0), np.float32)
    return np.stack([np.asarray(vertices[name], np.float32) for name in names], axis=1)


def _numbers(tensor: torch.Tensor) -> Columns:
    return tensor.detach().cpu().numpy().astype(np.float32)


def _tensor(values: Columns) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
