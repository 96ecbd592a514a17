"""Scenes in the layout that viewers read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from tools.reconstruction.splatting.gaussians import NAMES, Gaussians
from tools.reconstruction.splatting.scene_files import read_scene, write_scene


def random_scene(count: int = 7, bases: int = 4) -> Gaussians:
    draw = torch.Generator().manual_seed(0)
    shapes = ((count, 3), (count, 3), (count, 4), (count,), (count, bases, 3))
    return Gaussians(*(torch.randn(shape, generator=draw) for shape in shapes))


@pytest.mark.parametrize("bases", [1, 4, 9, 16])
def test_a_scene_comes_back_as_it_was(tmp_path: Path, bases: int) -> None:
    scene = random_scene(bases=bases)
    write_scene(tmp_path / "scene.ply", scene)
    again = read_scene(tmp_path / "scene.ply")
    for name in NAMES:
        assert torch.equal(getattr(again, name), getattr(scene, name)), name


def test_attributes_are_those_of_public_viewers(tmp_path: Path) -> None:
    scene = random_scene(bases=4)
    write_scene(tmp_path / "scene.ply", scene)
    vertices = PlyData.read(str(tmp_path / "scene.ply"))["vertex"]
    names = [each.name for each in vertices.properties]
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += [f"f_rest_{k}" for k in range(9)]
    expected += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == expected
    # Red's coefficients come first, then green's, then blue's.
    np.testing.assert_array_equal(vertices["f_rest_0"], scene.harmonics[:, 1, 0])
    np.testing.assert_array_equal(vertices["f_rest_3"], scene.harmonics[:, 1, 1])
    np.testing.assert_array_equal(vertices["f_rest_8"], scene.harmonics[:, 3, 2])
    np.testing.assert_array_equal(vertices["rot_0"], scene.rotations[:, 0])


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such scene"):
        read_scene(tmp_path / "scene.ply")
    (tmp_path / "text.ply").write_text("nothing of the kind")
    with pytest.raises(ValueError, match="no scene of Gaussians"):
        read_scene(tmp_path / "text.ply")
    points = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n"
    (tmp_path / "points.ply").write_text(points)
    with pytest.raises(ValueError, match="no scene of Gaussians"):
        read_scene(tmp_path / "points.ply")
