"""Points that come with given cameras: those of a COLMAP model as text."""

from __future__ import annotations

from pathlib import Path

import torch

from tools.reconstruction.cameras.search import SparsePoints, no_points

POINTS = "points3D.txt"


def read_points(poses: Path) -> SparsePoints:
    """The points of the COLMAP model that poses are read from; none for other files.

    Raises:  ValueError in one line for a broken file
    """
    folder = poses if poses.is_dir() else poses.parent
    is_model = poses.is_dir() or poses.name in ("images.txt", "cameras.txt")
    places = (folder / POINTS, folder / "sparse" / POINTS, folder / "sparse" / "0" / POINTS)
    path = next((each for each in places if is_model and each.is_file()), None)
    if path is None:
        return no_points()
    rows = [line.split() for line in path.read_text().splitlines()]
    rows = [row for row in rows if row and not row[0].startswith("#")]
    try:
        values = torch.tensor([[float(each) for each in row[1:8]] for row in rows]).double()
        values = values.reshape(-1, 7)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: not the points of a COLMAP model (number x y z red green blue error): {error}"
        ) from None
    if not torch.isfinite(values).all():
        raise ValueError(f"{path}: holds a point that is not finite")
    return SparsePoints(values[:, :3], (values[:, 3:6] / 255).float(), values[:, 6].float())
