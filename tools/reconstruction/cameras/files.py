"""Read poses that come with a clip, and write those that were found.

Read: a COLMAP model as text, TUM trajectories, `transforms.json` (NeRF), `cameras.json` (ours),
the truth of simulated clips (.npz), `poses_bounds.npy` (LLFF, EndoNeRF). Conventions differ; all
come out as `tools.reconstruction.cameras.pinhole` states them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from configs.errors import naming
from tools.reconstruction.cameras import formats
from tools.reconstruction.cameras.formats import Poses
from tools.reconstruction.cameras.pinhole import Cameras, camera_matrix, checked_poses
from tools.training.files import whole_file

FORMATS = (
    "a COLMAP model as text (its folder), a TUM trajectory (.txt), transforms.json, cameras.json, "
    "the truth of a simulated clip (.npz) or poses_bounds.npy"
)
UNREADABLE = (OSError, LookupError, TypeError, EOFError, AttributeError, zipfile.BadZipFile)
ASPECT = 0.02  # how far the shapes of frames and of given cameras may differ


def read_cameras(
    path: Path, frames: int, height: int, width: int, field_of_view: float = 90.0
) -> Cameras:
    """The given cameras of a clip, for frames of the given size.

    Where a file names as many poses as the clip has frames, they follow each other; where it
    names fewer, the numbers in the names (or times) tell the frames, counted from 0.

    Args:
        path: file or folder; `FORMATS` lists what is known.
        frames, height, width: of the clip.
        field_of_view: horizontal, degrees, where the file does not tell.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: an unknown or broken file, or poses of another clip.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file of poses; give {FORMATS}")
    read = _reader(path)
    try:
        given = read(path)
    except (*UNREADABLE, ValueError) as error:
        if isinstance(error, ValueError) and str(path.parent) in str(error):
            raise  # it names the file already
        what = f"{type(error).__name__} {error}"
        raise ValueError(f"{path}: not readable as poses ({what}); give {FORMATS}") from None
    numbers = _numbers(path, given, frames)
    poses = torch.as_tensor(given.world_to_camera)
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    if given.intrinsics is None:
        intrinsics, size = camera_matrix(height, width, field_of_view), (height, width)
    else:
        intrinsics, size = torch.as_tensor(given.intrinsics), given.size or (height, width)
        _check_lens(path, intrinsics, size, height, width)
    cameras = Cameras(
        intrinsics.to(torch.float64),
        checked_poses(poses[order], str(path)),
        *size,
        tuple(numbers[place] for place in order),
        "given",
    )
    return cameras.resized(height, width)


def write_cameras(path: Path, cameras: Cameras) -> None:
    """Write `cameras.json`, which `read_cameras` reads back."""
    with whole_file(path) as file:
        file.write((json.dumps(cameras.to_json(), indent=1) + "\n").encode())


def write_colmap(
    folder: Path,
    cameras: Cameras,
    points: Tensor | None = None,
    colours: Tensor | None = None,
    errors: Tensor | None = None,
) -> None:
    """Write a COLMAP model as text: cameras.txt, images.txt, points3D.txt, without tracks.

    Args:
        folder: made if absent.
        cameras: of frames 00000.png, 00001.png ... by their numbers.
        points, colours, errors: (N, 3) positions, (N, 3) in [0, 1], (N,) pixels.
    """
    matrix = cameras.intrinsics
    lens = [float(matrix[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))]
    lines = [f"1 PINHOLE {cameras.width} {cameras.height} " + " ".join(f"{v:.12g}" for v in lens)]
    images = []
    for index, number in enumerate(cameras.numbers):
        pose = cameras.world_to_camera[index].numpy()
        values = [*formats.quaternion(pose[:3, :3]), *pose[:3, 3]]
        written = " ".join(f"{value:.12g}" for value in values)
        images += [f"{number + 1} {written} 1 {number:05d}.png", ""]
    cloud = []
    if points is not None:
        paint = torch.full_like(points, 0.5) if colours is None else colours
        bytes_ = (paint * 255).round().clamp(0, 255).to(torch.uint8).tolist()
        off = torch.zeros(len(points)) if errors is None else errors
        for number, (place, colour, error) in enumerate(
            zip(points.tolist(), bytes_, off.tolist(), strict=True), start=1
        ):
            where = " ".join(f"{value:.9g}" for value in place)
            cloud.append(f"{number} {where} {colour[0]} {colour[1]} {colour[2]} {error:.5g}")
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = {"cameras.txt": lines, "images.txt": images, "points3D.txt": cloud}
    for name, rows in files.items():
        text = io.StringIO()
        text.writelines(f"{row}\n" for row in rows)
        with whole_file(folder / name) as file:
            file.write(text.getvalue().encode())


def _reader(path: Path) -> Callable[[Path], Poses]:
    if path.is_dir():
        return formats.read_colmap
    readers = {".npz": formats.read_truth, ".npy": formats.read_bounds, ".json": formats.read_json}
    if path.suffix.lower() in readers:
        return readers[path.suffix.lower()]
    if path.name in ("images.txt", "cameras.txt", "images.bin", "cameras.bin"):
        return lambda place: formats.read_colmap(place.parent)
    if path.suffix.lower() in (".txt", ".tum"):
        return formats.read_tum
    raise ValueError(f"{path}: poses of an unknown kind; give {FORMATS}")


def _numbers(path: Path, given: Poses, frames: int) -> list[int]:
    """Frame number of each pose."""
    count = len(given.world_to_camera)
    if count == frames:
        return given.order()
    told = f"{path}: poses of {count} frames, the clip has {frames}"
    if count > frames:
        raise ValueError(f"{told}; give the poses of these frames, or the frames of these poses")
    numbers = given.numbers()
    if numbers is None or len(set(numbers)) < count:
        raise ValueError(f"{told}, and their names do not tell which; number them from 0")
    if max(numbers) >= frames or min(numbers) < 0:
        beyond = max(numbers) if max(numbers) >= frames else min(numbers)
        raise ValueError(f"{told} (0 to {frames - 1}) and a pose is of frame {beyond}")
    return numbers


def _check_lens(
    path: Path, intrinsics: Tensor, size: tuple[int, int], height: int, width: int
) -> None:
    if intrinsics.shape != (3, 3) or not torch.isfinite(intrinsics).all():
        raise ValueError(f"{path}: the camera matrix is not one of finite numbers, 3 x 3")
    if min(float(intrinsics[0, 0]), float(intrinsics[1, 1])) <= 0 or min(size) < 1:
        raise ValueError(f"{path}: focal lengths and picture sizes must be above 0")
    if abs(size[1] / size[0] * height / width - 1) > ASPECT:
        raise ValueError(
            f"{path}: cameras for pictures of {size[0]} x {size[1]}, the frames are "
            f"{height} x {width}: another shape, so they belong to another clip or to uncropped "
            f"frames"
        )
