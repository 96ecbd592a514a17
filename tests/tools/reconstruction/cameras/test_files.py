"""Poses come out alike from every format, and those of another clip are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datasets.simulator import simulate_clip
from tools.reconstruction.cameras.files import read_cameras, write_cameras, write_colmap
from tools.reconstruction.cameras.formats import quaternion, rotation
from tools.reconstruction.cameras.pinhole import Cameras, camera_matrix
from tools.simulate import write_truth

COUNT, HEIGHT, WIDTH, VIEW = 5, 48, 64, 80.0


@pytest.fixture
def cameras() -> Cameras:
    generator = torch.Generator().manual_seed(3)
    turns, _ = torch.linalg.qr(torch.randn(COUNT, 3, 3, generator=generator, dtype=torch.float64))
    poses = torch.eye(4, dtype=torch.float64).repeat(COUNT, 1, 1)
    poses[:, :3, :3] = turns * torch.linalg.det(turns)[:, None, None]
    poses[:, :3, 3] = torch.randn(COUNT, 3, generator=generator, dtype=torch.float64)
    lens = camera_matrix(HEIGHT, WIDTH, VIEW)
    return Cameras(lens, poses, HEIGHT, WIDTH, tuple(range(COUNT)), "given")


def write_json(folder: Path, cameras: Cameras) -> Path:
    write_cameras(folder / "cameras.json", cameras)
    return folder / "cameras.json"


def write_model(folder: Path, cameras: Cameras) -> Path:
    write_colmap(folder / "sparse", cameras)
    return folder / "sparse"


def camera_to_world(cameras: Cameras) -> NDArray[np.float64]:
    return np.linalg.inv(cameras.world_to_camera.numpy())


def write_tum(folder: Path, cameras: Cameras) -> Path:
    lines = ["# time tx ty tz qx qy qz qw"]
    for time, pose in enumerate(camera_to_world(cameras)):
        w, x, y, z = quaternion(pose[:3, :3])
        lines.append(" ".join(f"{v:.10f}" for v in [time / 25, *pose[:3, 3], x, y, z, w]))
    (folder / "path.txt").write_text("\n".join(lines) + "\n")
    return folder / "path.txt"


def write_transforms(folder: Path, cameras: Cameras) -> Path:
    flip = np.diag([1.0, -1, -1, 1])  # OpenGL looks along -z with y up
    frames = [
        {"file_path": f"images/{number:04d}.png", "transform_matrix": (pose @ flip).tolist()}
        for number, pose in enumerate(camera_to_world(cameras))
    ]
    lens = {"w": WIDTH, "h": HEIGHT, "camera_angle_x": np.deg2rad(VIEW)}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return folder / "transforms.json"


def write_bounds(folder: Path, cameras: Cameras) -> Path:
    focal = float(cameras.intrinsics[0, 0])
    rows = []
    for pose in camera_to_world(cameras):
        right, down, forward = pose[:3, :3].T
        columns = [down, right, -forward, pose[:3, 3], np.array([HEIGHT, WIDTH, focal])]
        rows.append([*np.stack(columns, 1).ravel(), 0.1, 5.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder / "poses_bounds.npy"


@pytest.mark.parametrize(
    "write", [write_json, write_model, write_tum, write_transforms, write_bounds]
)
def test_every_format_gives_the_same_cameras(
    tmp_path: Path, cameras: Cameras, write: Callable[[Path, Cameras], Path]
) -> None:
    read = read_cameras(write(tmp_path, cameras), COUNT, HEIGHT, WIDTH, VIEW)
    assert read.source == "given"
    assert read.numbers == cameras.numbers
    assert torch.allclose(read.world_to_camera, cameras.world_to_camera, atol=1e-8)
    assert torch.allclose(read.intrinsics, cameras.intrinsics, atol=1e-6)


@pytest.mark.parametrize("write", [write_json, write_model, write_transforms, write_bounds])
def test_cameras_follow_the_size_of_the_frames(
    tmp_path: Path, cameras: Cameras, write: Callable[[Path, Cameras], Path]
) -> None:
    read = read_cameras(write(tmp_path, cameras), COUNT, HEIGHT // 2, WIDTH // 2)
    assert torch.allclose(read.intrinsics, cameras.resized(24, 32).intrinsics, atol=1e-6)
    with pytest.raises(ValueError, match="another shape"):
        read_cameras(tmp_path / write(tmp_path, cameras).name, COUNT, 64, 64)


@pytest.mark.parametrize("write", [write_json, write_model, write_tum, write_bounds])
def test_poses_of_another_clip_are_refused(
    tmp_path: Path, cameras: Cameras, write: Callable[[Path, Cameras], Path]
) -> None:
    path = write(tmp_path, cameras)
    with pytest.raises(ValueError, match="poses of 5 frames, the clip has 3"):
        read_cameras(path, 3, HEIGHT, WIDTH)


def test_fewer_poses_find_their_frames_by_number(tmp_path: Path, cameras: Cameras) -> None:
    part = cameras.chosen([1, 3, 4])
    for path in (write_json(tmp_path, part), write_model(tmp_path, part)):
        read = read_cameras(path, 9, HEIGHT, WIDTH)
        assert read.numbers == (1, 3, 4)
        assert torch.allclose(read.world_to_camera, part.world_to_camera, atol=1e-8)
        with pytest.raises(ValueError, match=r"the clip has 4 \(0 to 3\) and a pose is of frame 4"):
            read_cameras(path, 4, HEIGHT, WIDTH)


def test_names_are_ordered_by_number_not_by_place(tmp_path: Path, cameras: Cameras) -> None:
    path = write_transforms(tmp_path, cameras)
    content = json.loads(path.read_text())
    for frame, number in zip(content["frames"], [10, 9, 100, 2, 1], strict=True):
        frame["file_path"] = f"images/f{number}"
    path.write_text(json.dumps(content))
    read = read_cameras(path, COUNT, HEIGHT, WIDTH)
    expected = cameras.world_to_camera[[4, 3, 1, 0, 2]]
    assert torch.allclose(read.world_to_camera, expected, atol=1e-8)


def test_the_truth_of_a_simulated_clip_shows_points_where_its_pictures_do(tmp_path: Path) -> None:
    clip = simulate_clip(0, frames=2, size=32)
    write_truth(tmp_path / "truth.npz", clip)
    cameras = read_cameras(tmp_path / "truth.npz", 2, 32, 32)
    depth = torch.from_numpy(clip.depth[1])
    world = cameras.camera(1).unproject(depth)
    # the simulator's own rule: centres at whole numbers, camera to world
    row, column = 12, 20
    ray = np.linalg.inv(clip.intrinsics) @ [column, row, 1.0] * float(depth[row, column])
    expected = clip.poses[1] @ [*ray, 1.0]
    assert world[row, column].tolist() == pytest.approx(expected[:3].tolist())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("path.txt", "0 1 2 3\n", "line 1 has 4 values"),
        ("path.txt", "0 0 0 0 0 0 0 0\n", "quaternion has length 0"),
        ("path.txt", "0 0 0 x 0 0 0 1\n", "not all numbers"),
        ("path.txt", "# nothing\n", "holds no pose"),
        ("path.txt", "1 0 0 0 0 0 0 1\n0 0 0 0 0 0 0 1\n", "must ascend"),
        ("poses.json", "{", "not readable as JSON"),
        ("poses.json", "[1]", "neither cameras.json nor transforms.json"),
        ("poses.json", '{"frames": [{}], "w": 64, "h": 48}', "not readable as poses"),
        ("poses.json", '{"frames": [], "w": 64, "h": 48}', "holds no pose"),
        ("poses.json", '{"k1": 0.1, "frames": []}', "distortion"),
        ("poses.csv", "", "of an unknown kind"),
        ("poses.npy", "no array", "poses.npy: not readable as poses"),
        ("poses.npz", "no arrays", "poses.npz: not readable as poses"),
        ("images.txt", "", "cameras.txt and images.txt are needed"),
    ],
)
def test_broken_files_are_told_in_one_line(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_cameras(tmp_path / name, COUNT, HEIGHT, WIDTH)
    assert "\n" not in str(caught.value)


def test_broken_colmap_models_are_told_in_one_line(tmp_path: Path, cameras: Cameras) -> None:
    folder = write_model(tmp_path, cameras)
    for text, said in {
        "1 FOV 64 48 30 32 24 0.1": "none of SIMPLE_PINHOLE",
        "1 SIMPLE_RADIAL 64 48 30 32 24 0.1": "distortion",
        "1 PINHOLE 64 48 30 30 32 24\n2 PINHOLE 64 48 31 31 32 24": "cameras that differ",
        "1 PINHOLE 64 48 0 0 32 24": "above 0",
        "# none": "lists no camera",
    }.items():
        (folder / "cameras.txt").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_cameras(folder, COUNT, HEIGHT, WIDTH)
    for name in ("cameras", "images"):
        (folder / f"{name}.txt").unlink()
        (folder / f"{name}.bin").touch()
    with pytest.raises(ValueError, match="binary COLMAP model"):
        read_cameras(folder, COUNT, HEIGHT, WIDTH)
    with pytest.raises(FileNotFoundError, match="no such file of poses"):
        read_cameras(tmp_path / "absent", COUNT, HEIGHT, WIDTH)


def test_quaternions_are_those_of_their_rotations(cameras: Cameras) -> None:
    half_turns = [np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1])]
    for turn in [*cameras.world_to_camera[:, :3, :3].numpy(), np.eye(3), *half_turns]:
        found = quaternion(turn)
        assert found[0] >= 0
        assert np.allclose(rotation(found, Path("x")), turn)


def test_a_written_model_holds_points_with_their_colours(tmp_path: Path, cameras: Cameras) -> None:
    points = torch.tensor([[1.0, 2, 3], [4, 5, 6.5]])
    colours = torch.tensor([[0.0, 0.5, 1], [1, 1, 1]])
    write_colmap(tmp_path, cameras, points, colours, torch.tensor([0.25, 1]))
    lines = (tmp_path / "points3D.txt").read_text().splitlines()
    assert lines == ["1 1 2 3 0 128 255 0.25", "2 4 5 6.5 255 255 255 1"]
