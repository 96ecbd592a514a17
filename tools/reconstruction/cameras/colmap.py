"""COLMAP, kept at arm's length: every stage is a process with a time limit.

The library aborts on some errors and may take very long on pictures without texture. A crash or a
run that takes too long is a `ColmapError` here, never the end of the caller.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import naming
from datasets.image_io import write_image
from tools.reconstruction.cameras.pinhole import Cameras, camera_matrix, checked_poses

Mapper = Literal["incremental", "global"]
MAPPERS: tuple[Mapper, ...] = ("incremental", "global")

WORKER = (sys.executable, "-m", "tools.reconstruction.cameras.colmap_worker")
ROOT = Path(__file__).resolve().parents[3]
LEAST, MOST = 256, 640  # pixels of the short and the long side that COLMAP is to see
PEAK = 0.002  # SIFT's threshold: mucosa has little contrast
MISSING = "pycolmap is not installed: pip install -r requirements.txt"


class ColmapError(RuntimeError):
    """A stage of COLMAP that ended without a result."""


@dataclass(frozen=True)
class Matches:
    """Verified matches between frames, at the size that COLMAP sees."""

    pairs: NDArray[np.int64]  # (P, 2) numbers of the frames
    sizes: NDArray[np.int64]  # (P,) verified matches of each pair
    kinds: NDArray[np.str_]  # (P,) what explains them, COLMAP's names
    places: NDArray[np.float32]  # (sum of sizes, 4) x, y in the first and in the second frame
    features: NDArray[np.int64]  # (F,) features of each frame
    matched: NDArray[np.int64]  # (F,) those of them in a verified match
    height: int
    width: int


@dataclass(frozen=True)
class Model:
    """The largest model of a mapper."""

    cameras: Cameras  # at the size that COLMAP saw
    points: Tensor  # (N, 3) float64
    sizes: tuple[int, ...]  # frames of all models, largest first
    mapper: Mapper
    observed_point: Tensor  # (M,) index of the point
    observed_frame: Tensor  # (M,) frame number
    observed_at: Tensor  # (M, 2) pixels


class Colmap:
    """The frames of a clip, ready for COLMAP.

    Args:
        folder: for pictures, database and models; what an earlier run left there is removed.
        frames: (F, H, W, 3) uint8.
        masks: (F, H, W) bool, True where a pixel may be used; None for all.
        field_of_view: horizontal, degrees, where the search starts.
        view_known: keep it.
        seed, threads: of COLMAP; threads -1 means all cores.
        time_limit: seconds for each stage.
    """

    def __init__(
        self,
        folder: Path,
        frames: Tensor,
        masks: Tensor | None,
        *,
        field_of_view: float = 90.0,
        view_known: bool = False,
        seed: int = 0,
        threads: int = -1,
        time_limit: float = 900.0,
    ) -> None:
        self.folder = folder.resolve()
        self.count = len(frames)
        self.height, self.width = seen_size(*frames.shape[1:3])
        self.time_limit = time_limit
        if self.folder.exists():
            shutil.rmtree(self.folder)
        with naming(folder):
            for name in ("images", "masks"):
                (self.folder / name).mkdir(parents=True)
        self._write(frames, masks)
        self.job = {
            "images": str(self.folder / "images"),
            "masks": str(self.folder / "masks"),
            "database": str(self.folder / "database.db"),
            "count": self.count,
            "height": self.height,
            "width": self.width,
            "focal": float(camera_matrix(self.height, self.width, field_of_view)[0, 0]),
            "refine_focal": not view_known,
            "peak_threshold": PEAK,
            "seed": seed,
            "threads": threads,
        }

    def match(self) -> Matches:
        """Find features and verified matches.

        Raises:
            ColmapError: the process failed or took too long.
        """
        found = self._run("match")
        return Matches(**found, height=self.height, width=self.width)

    def build(self, mapper: Mapper) -> Model | None:
        """The largest model of a mapper, None where it made none; after `match`.

        Raises:
            ColmapError: the process failed or took too long.
        """
        found = self._run(mapper)
        if not len(found["sizes"]):
            return None
        cameras = Cameras(
            torch.from_numpy(found["intrinsics"]),
            checked_poses(torch.from_numpy(found["world_to_camera"]), "COLMAP"),
            self.height,
            self.width,
            tuple(found["numbers"].tolist()),
            "colmap",
        )
        return Model(
            cameras,
            torch.from_numpy(found["points"]),
            tuple(found["sizes"].tolist()),
            mapper,
            *(torch.from_numpy(found[f"observed_{name}"]) for name in ("point", "frame", "at")),
        )

    def _write(self, frames: Tensor, masks: Tensor | None) -> None:
        """Pictures and masks at the size that COLMAP is to see."""
        for number, frame in enumerate(frames):
            picture = frame.permute(2, 0, 1)
            name = f"{number:05d}.png"
            write_image(self.folder / "images" / name, resized(picture, self.height, self.width))
            if masks is not None:
                usable = masks[number].to(torch.uint8)[None].expand(3, -1, -1) * 255
                usable = resized(usable, self.height, self.width)
                # a pixel that is half outside is outside
                usable = (usable > 254).to(torch.uint8) * 255
                write_image(self.folder / "masks" / f"{name}.png", usable)

    def _run(self, stage: str) -> dict[str, NDArray[Any]]:
        output = self.folder / f"{stage}.npz"
        models = self.folder / stage
        masks = self.job["masks"] if any((self.folder / "masks").iterdir()) else ""
        job = {**self.job, "masks": masks, "stage": stage}
        job |= {"output": str(output), "models": str(models)}
        path = self.folder / f"{stage}.json"
        path.write_text(json.dumps(job, indent=1))
        run_worker([*WORKER, str(path)], self.folder / f"{stage}.log", self.time_limit, stage)
        if not output.is_file():
            raise ColmapError(f"COLMAP ({stage}) left no result; see {self.folder}/{stage}.log")
        with np.load(output, allow_pickle=False) as arrays:
            return dict(arrays)


def run_worker(command: list[str], log: Path, time_limit: float, stage: str) -> None:
    """Run a stage; its words go into the file `log`.

    Raises:
        ColmapError: it failed, aborted, or took longer than `time_limit` seconds.
        ValueError: pycolmap is not installed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *_path()])}
    with log.open("wb") as words:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that no thread or child of it outlives the limit
        )
        try:
            status = process.wait(timeout=time_limit)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ColmapError(
                    f"COLMAP ({stage}) took longer than {time_limit:g} s and was stopped"
                ) from None
            raise
    if status == 0:
        return
    said = log.read_text(errors="replace").strip().splitlines()
    last = said[-1].strip() if said else "it said nothing"
    if "No module named 'pycolmap'" in last:
        raise ValueError(MISSING)
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"failed ({status})"
    raise ColmapError(f"COLMAP ({stage}) {how}: {last}")


def seen_size(height: int, width: int) -> tuple[int, int]:
    """The size that COLMAP sees: 256 or more on the short side, 640 or less on the long one.

    Enlarged frames give more features (128 to 256 pixels: four times the points).
    """
    factor = 1.0
    if min(height, width) < LEAST:
        factor = LEAST / min(height, width)
    elif max(height, width) > MOST:
        factor = max(MOST / max(height, width), LEAST / min(height, width))
    return round(height * factor), round(width * factor)


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture (3, H, W) uint8 at another size, smoothed where it shrinks."""
    if tuple(picture.shape[1:]) == (height, width):
        return picture
    scaled = torch.nn.functional.interpolate(
        picture[None].float(), size=(height, width), mode="bicubic", antialias=True
    )
    return scaled[0].round().clamp(0, 255).to(torch.uint8)


def _path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
