"""Depth: files, guesses, and the unit of the cameras."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tools.reconstruction.cameras.pinhole import Cameras, camera_matrix
from tools.reconstruction.depth.files import read_depth, write_depth_pictures
from tools.reconstruction.depth.sources import (
    load_network,
    network_depth,
    read_given,
    resized_depth,
    robust_line,
    scale_to_points,
    shading_depth,
    to_points,
    with_free_unit,
)

SIZE = 24


def random_depth(frames: int = 3, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.uniform(5, 900, (frames, SIZE, SIZE)).astype(np.float32)


def test_depth_pictures_come_back_within_half_a_step(tmp_path: Path) -> None:
    depth = random_depth()  # far above 255, where 8 bits would end
    depth[0, 0, 0], depth[1, 2, 3] = 0, np.nan
    unit = write_depth_pictures(tmp_path / "depth", depth)
    again = read_depth(tmp_path / "depth")
    known = np.nan_to_num(depth)
    assert np.abs(again - known).max() <= unit / 2 + 1e-4
    assert again[0, 0, 0] == 0
    assert again[1, 2, 3] == 0
    with Image.open(tmp_path / "depth" / "00000.png") as image:
        assert np.array(image).dtype == np.uint16
    assert unit == pytest.approx(np.nanmax(depth) / 65535)


def test_depth_arrays_are_read_for_the_chosen_frames(tmp_path: Path) -> None:
    depth = random_depth(5)
    np.savez(tmp_path / "truth.npz", depth=depth.astype(np.float32), poses=np.eye(4))
    chosen = read_given(tmp_path / "truth.npz", (0, 2, 4), 5)
    np.testing.assert_array_equal(chosen, depth[[0, 2, 4]])
    np.save(tmp_path / "three.npy", depth[:3])
    assert len(read_given(tmp_path / "three.npy", (0, 2, 4), 5)) == 3
    with pytest.raises(ValueError, match=r"3 depth maps for a video of 6 frames .*other frames"):
        read_given(tmp_path / "three.npy", (0, 1), 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"depth": np.zeros((2, 4, 4))}, "no depth above 0"),
        ({"depth": np.ones((4, 4))}, "of shape"),
        ({"depth": -np.ones((2, 4, 4))}, "negative"),
        ({"other": np.ones((2, 4, 4))}, "no array `depth`"),
    ],
)
def test_arrays_without_depth_are_refused(
    tmp_path: Path, content: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "depth.npz", **content)
    with pytest.raises(ValueError, match=message):
        read_depth(tmp_path / "depth.npz")


def test_files_that_are_no_depth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such depth"):
        read_depth(tmp_path / "depth.npz")
    (tmp_path / "depth.txt").write_text("1")
    with pytest.raises(ValueError, match=r"depth maps are \.npz"):
        read_depth(tmp_path / "depth.txt")
    with pytest.raises(ValueError, match="no PNG"):
        read_depth(tmp_path)
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="no depth maps"):
        read_depth(tmp_path / "broken.npz")


def test_no_depth_between_two_surfaces_is_made_up() -> None:
    depth = np.where(np.arange(SIZE) < SIZE // 2, 1.0, 9.0).astype(np.float32)
    small = resized_depth(np.broadcast_to(depth, (1, SIZE, SIZE)), 7, 7)
    assert set(np.unique(small)) == {1.0, 9.0}


def test_a_wall_lit_by_the_camera_is_measured_by_its_brightness() -> None:
    rows = np.linspace(1, 3, 64)[:, None] * np.ones((1, 64))  # true depth
    light = 0.8 / rows**2  # linear light
    picture = np.round(255 * light ** (1 / 2.2)).astype(np.uint8)
    pictures = np.repeat(picture[None, ..., None], 3, axis=3)
    masks = np.ones((1, 64, 64), bool)
    masks[:, :, :5] = False
    pictures[:, :, :5] = 255  # a highlight, which the mask hides
    depth = with_free_unit(shading_depth(pictures, masks), masks, has_zero=True)
    assert (depth[~masks] == 0).all()
    assert np.median(depth[masks]) == pytest.approx(1, abs=1e-6)
    ratio = (depth[0] / rows)[8:-8, 8:-8]
    assert ratio.std() / ratio.mean() < 0.02


def moving_cameras(count: int = 4) -> Cameras:
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, 0, 3] = torch.linspace(0, -0.6, count)
    return Cameras(camera_matrix(SIZE, SIZE, 80), poses, SIZE, SIZE, tuple(range(count)), "colmap")


def points_on_pixels(cameras: Cameras, depth: np.ndarray) -> torch.Tensor:
    """World points at the centres of some pixels of every frame, each seen only there in depth."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for index in range(len(cameras)):
        world = cameras.camera(index).unproject(torch.from_numpy(depth[index])).flatten(0, 1)
        found.append(world[torch.randperm(len(world), generator=draw)[:60]])
    return torch.cat(found)


def test_relative_depth_is_brought_to_the_points() -> None:
    cameras = moving_cameras()
    depth = np.full((4, SIZE, SIZE), 0, np.float32) + np.linspace(2, 5, SIZE, dtype=np.float32)
    depth = depth.transpose(0, 2, 1).copy()  # a slope that every camera sees alike
    inverse = (1 / depth - 0.1) * np.array([3.0, 2.0, 4.0, 3.5], np.float32)[:, None, None]
    masks = np.ones(depth.shape, bool)
    found = to_points(inverse.astype(np.float32), cameras, points_on_pixels(cameras, depth), masks)
    assert np.abs(found / depth - 1).max() < 0.02


def test_given_depth_takes_the_unit_of_the_points() -> None:
    cameras = moving_cameras()
    slope = np.linspace(2, 5, SIZE, dtype=np.float32)[None, :, None]
    depth = np.broadcast_to(slope, (4, SIZE, SIZE)).copy()
    masks = np.ones(depth.shape, bool)
    points = points_on_pixels(cameras, depth)
    assert scale_to_points(depth * 25, cameras, points, masks) == pytest.approx(1 / 25, rel=0.02)
    with pytest.raises(ValueError, match="only 0 points"):
        scale_to_points(depth, cameras, points[:0], masks)


def test_a_robust_line_ignores_what_lies_far_off() -> None:
    draw = np.random.default_rng(0)
    relative = draw.uniform(1, 5, 200)
    wanted = 0.3 * relative + 0.2
    wanted[:50] += draw.uniform(1, 4, 50)  # a quarter of the points is wrong
    assert robust_line(relative, wanted) == pytest.approx((0.3, 0.2), abs=0.01)


class Darkness(torch.nn.Module):
    """Stands in for a depth network: near is bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(1) * 3 + 7


class Reversal(torch.nn.Module):
    """Gives no map."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean()


def test_a_network_by_path_gives_inverse_depth(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.script(Darkness()).save(str(tmp_path / "depth.pt"))
    network = load_network(tmp_path / "depth.pt")
    ramp = np.broadcast_to(np.linspace(0, 255, 32)[None, :, None, None], (2, 32, 32, 3))
    pictures, masks = ramp.astype(np.uint8), np.ones((2, 32, 32), bool)
    inverse = network_depth(network, pictures, masks, torch.device("cpu"), 28)
    depth = with_free_unit(inverse, masks, has_zero=False)
    assert (np.diff(depth.mean((0, 2))) < 0).all()
    assert depth.max() / depth.min() < 9
    with pytest.raises(ValueError, match="does not map"):
        network_depth(Reversal(), pictures, masks, torch.device("cpu"), 28)


def test_files_that_are_no_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such depth network"):
        load_network(tmp_path / "depth.pt")
    (tmp_path / "depth.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a TorchScript file"):
        load_network(tmp_path / "depth.pt")
