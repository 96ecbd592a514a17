"""Formats of camera poses, each turned into world-to-camera matrices with OpenCV axes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.sources import natural_key

Matrix = NDArray[np.floating[Any]]

FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # x right, y up, z backward -> OpenCV
FROM_LLFF = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # down, right, backward
LENSES = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8}
TUM_FIELDS = 8  # time, position, quaternion


@dataclass(frozen=True)
class Poses:
    """Poses as a file tells them."""

    world_to_camera: Matrix  # (N, 4, 4)
    names: tuple[str, ...] | None = None  # of the frames, or their times
    intrinsics: Matrix | None = None  # (3, 3) with pixel centres at 0.5
    size: tuple[int, int] | None = None  # height, width that the intrinsics are for

    def order(self) -> list[int]:
        """Place of each pose among all, by its name (2 before 10), or by its place."""
        count = len(self.world_to_camera)
        if self.names is None:
            return list(range(count))
        ranked = sorted(range(count), key=lambda place: natural_key((self.names or ())[place]))
        places = [0] * count
        for rank, place in enumerate(ranked):
            places[place] = rank
        return places

    def numbers(self) -> list[int] | None:
        """The last number in each name, None where there is none."""
        found = [re.findall(r"\d+", Path(name).stem) for name in self.names or ()]
        if len(found) != len(self.world_to_camera) or not all(found):
            return None
        return [int(digits[-1]) for digits in found]


# ---------------------------------------------------------------- COLMAP


def read_colmap(folder: Path) -> Poses:
    """A COLMAP model as text: world to camera already, pixel centres at 0.5."""
    lenses, images = folder / "cameras.txt", folder / "images.txt"
    if not (lenses.is_file() and images.is_file()):
        if (folder / "images.bin").is_file():
            raise ValueError(
                f"{folder}: a binary COLMAP model; turn it into text with "
                f"`colmap model_converter --output_type TXT`"
            )
        raise ValueError(f"{folder}: no COLMAP model; cameras.txt and images.txt are needed")
    intrinsics, size = _colmap_lens(lenses)
    poses, names = [], []
    lines = [line for line in images.read_text().splitlines() if not line.startswith("#")]
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines[::2]):  # every other line lists observations
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise ValueError(f"{images}: image {number + 1} has {len(fields)} fields, not 10")
        values = _floats(fields[1:8], images)
        poses.append(_pose(rotation(values[:4], images), values[4:]))
        names.append(fields[9].strip())
    return Poses(_stack(poses, images), tuple(names), intrinsics, size)


def _colmap_lens(path: Path) -> tuple[Matrix, tuple[int, int]]:
    rows = [line.split() for line in path.read_text().splitlines()]
    rows = [row for row in rows if row and not row[0].startswith("#")]
    if not rows:
        raise ValueError(f"{path}: it lists no camera")
    if any(row[1:] != rows[0][1:] for row in rows):
        raise ValueError(f"{path}: cameras that differ; a clip has one camera")
    model = rows[0][1]
    if model not in LENSES or len(rows[0]) != 4 + LENSES[model]:
        known = ", ".join(LENSES)
        raise ValueError(f"{path}: camera {' '.join(rows[0][:2])} is none of {known}")
    width, height, *values = _floats(rows[0][2:], path)
    if model in ("PINHOLE", "OPENCV"):
        fx, fy, cx, cy, *bent = values
    else:
        fx, cx, cy, *bent = values
        fy = fx
    _refuse_distortion(bent, path)
    return _matrix(fx, fy, cx, cy), (int(height), int(width))


# ---------------------------------------------------------------- trajectories


def read_tum(path: Path) -> Poses:
    """A TUM trajectory: time, position and quaternion (x y z w) of the camera in the world."""
    poses, times = [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != TUM_FIELDS:
            raise ValueError(
                f"{path}: line {number} has {len(fields)} values; a trajectory (TUM) has 8: "
                f"time tx ty tz qx qy qz qw"
            )
        values = _floats(fields, path)
        turn = rotation([values[7], *values[4:7]], path)
        poses.append(np.linalg.inv(_pose(turn, values[1:4])))
        times.append(values[0])
    if times != sorted(set(times)):
        raise ValueError(f"{path}: the times of a trajectory must ascend without repeats")
    names = None
    if all(time == int(time) and time >= 0 for time in times):
        names = tuple(str(int(time)) for time in times)
    return Poses(_stack(poses, path), names)


# ---------------------------------------------------------------- JSON


def read_json(path: Path) -> Poses:
    """`cameras.json` as `write_cameras` leaves it, or `transforms.json` of NeRF tools."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: neither cameras.json nor transforms.json")
    if "world_to_camera" in content:
        return Poses(
            np.asarray(content["world_to_camera"], np.float64),
            tuple(str(number) for number in content["frames"]),
            np.asarray(content["intrinsics"], np.float64),
            (int(content["height"]), int(content["width"])),
        )
    if "frames" not in content:
        raise ValueError(f"{path}: neither cameras.json nor transforms.json: it has no frames")
    return _transforms(content, path)


def _transforms(content: dict[str, Any], path: Path) -> Poses:
    """OpenGL axes, camera to world; pixel centres at 0.5."""
    frames = content["frames"]
    own = {"fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x"}
    lenses = [{key: frame[key] for key in own & set(frame)} for frame in frames]
    if any(lens != lenses[0] for lens in lenses):
        raise ValueError(f"{path}: frames with cameras that differ; a clip has one camera")
    lens = {**content, **(lenses[0] if lenses else {})}
    _refuse_distortion([float(lens.get(f"k{n}", 0)) for n in range(1, 5)], path)
    _refuse_distortion([float(lens.get(name, 0)) for name in ("p1", "p2")], path)
    poses = []
    for frame in frames:
        pose = np.asarray(frame["transform_matrix"], np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"{path}: a transform_matrix of shape {pose.shape}, not (4, 4)")
        poses.append(_inverse(pose @ FROM_OPENGL, path))
    names = tuple(str(frame.get("file_path", place)) for place, frame in enumerate(frames))
    intrinsics, size = None, None
    if "w" in lens and "h" in lens:
        width, height = float(lens["w"]), float(lens["h"])
        size = (int(height), int(width))
        focal = lens.get("fl_x")
        if focal is None and "camera_angle_x" in lens:
            focal = width / 2 / np.tan(float(lens["camera_angle_x"]) / 2)
        if focal is not None:
            fy = float(lens.get("fl_y", focal))
            cx, cy = float(lens.get("cx", width / 2)), float(lens.get("cy", height / 2))
            intrinsics = _matrix(float(focal), fy, cx, cy)
    elif "camera_angle_x" in lens:
        # sizes are not told: a square picture of width 1, which `read_cameras` cannot check
        raise ValueError(f"{path}: it tells no picture size; add w and h (pixels)")
    return Poses(_stack(poses, path), names, intrinsics, size)


# ---------------------------------------------------------------- arrays


def read_truth(path: Path) -> Poses:
    """The truth of a simulated clip: camera to world, pixel centres at whole numbers."""
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"poses", "intrinsics", "mask"} - set(arrays.files)
        if missing:
            raise ValueError(
                f"{path}: no truth of a simulated clip: {', '.join(sorted(missing))} are missing"
            )
        given, matrix = np.asarray(arrays["poses"], np.float64), arrays["intrinsics"]
        height, width = arrays["mask"].shape
    intrinsics = np.array(matrix, np.float64)
    intrinsics[:2, 2] += 0.5
    poses = [_inverse(pose, path) for pose in given]
    return Poses(_stack(poses, path), None, intrinsics, (int(height), int(width)))


def read_bounds(path: Path) -> Poses:
    """`poses_bounds.npy`: rows of a 3 x 5 matrix (camera to world; height, width, focal), 2 bounds.

    The axes of LLFF are down, right, backward; the principal point is the centre.
    """
    rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != 17 or not len(rows):
        raise ValueError(f"{path}: an array of shape {rows.shape}; poses_bounds has (frames, 17)")
    blocks = rows[:, :15].reshape(-1, 3, 5).astype(np.float64)
    lens = blocks[:, :, 4]
    if not np.allclose(lens, lens[0]):
        raise ValueError(f"{path}: sizes or focal lengths that differ; a clip has one camera")
    height, width, focal = lens[0].tolist()
    poses = []
    for block in blocks:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = block[:, :3] @ FROM_LLFF, block[:, 3]
        poses.append(_inverse(pose, path))
    matrix = _matrix(focal, focal, width / 2, height / 2)
    return Poses(_stack(poses, path), None, matrix, (int(height), int(width)))


# ---------------------------------------------------------------- pieces


def rotation(wxyz: Sequence[float], path: Path) -> Matrix:
    """Rotation (3, 3) of a quaternion of any length but 0."""
    length = float(np.linalg.norm(wxyz))
    if not 0.5 < length < 2:
        raise ValueError(f"{path}: a rotation whose quaternion has length {length:.3g}, not 1")
    w, x, y, z = (value / length for value in wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(turn: Matrix) -> tuple[float, float, float, float]:
    """Quaternion (w, x, y, z), w not negative, of a rotation (3, 3).

    It is the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix (2000), which has no
    special cases.
    """
    (a, b, c), (d, e, f), (g, h, i) = turn.tolist()
    matrix = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    found = np.linalg.eigh(matrix)[1][:, -1]
    w, x, y, z = (found if found[0] >= 0 else -found).tolist()
    return w, x, y, z


def _matrix(fx: float, fy: float, cx: float, cy: float) -> Matrix:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _pose(turn: Matrix, position: Sequence[float]) -> Matrix:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, position
    return pose


def _inverse(pose: Matrix, path: Path) -> Matrix:
    try:
        return np.linalg.inv(pose)
    except np.linalg.LinAlgError:
        raise ValueError(f"{path}: a pose that cannot be inverted") from None


def _stack(poses: Sequence[Matrix], path: Path) -> Matrix:
    if not poses:
        raise ValueError(f"{path}: it holds no pose")
    return np.stack(poses)


def _floats(fields: Sequence[str], path: Path) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError:
        raise ValueError(f"{path}: not all numbers in: {' '.join(fields)[:60]}") from None


def _refuse_distortion(bent: Sequence[float], path: Path) -> None:
    if any(abs(value) > 1e-9 for value in bent):
        raise ValueError(
            f"{path}: a lens with distortion; undistort frames and cameras first "
            f"(colmap image_undistorter)"
        )
