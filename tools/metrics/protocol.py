"""Which clips and frames of two sets are compared, and how they are prepared: the protocol.

The presets are the files of configs/metrics; `load_protocol` reads one of them or a file like
them, with `key=value` changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.load import build, merge_sources
from configs.schema import require

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "metrics"

Resize = Literal["crop", "squeeze"]
Offset = Literal["random", "start", "dense"]
Choice = Literal["random", "first"]


@dataclass
class Protocol:
    """Every choice between a folder of videos and a number. 0 as a limit means no limit."""

    name: str = "default"
    frame_size: int = 128  # pixels of both sides after preparation; 0 leaves frames as stored
    resize: Resize = "crop"  # short side and centre crop, or squeeze to a square
    antialias: bool = True  # low-pass before shrinking (bicubic either way)
    clip_frames: int = 16
    real_stride: int = 0  # source frames from one frame of a clip to the next; 0: as trained
    fake_stride: int = 1
    # Where clips start: seeded by the video's name, one after the other from frame 0, or all over
    # the video, overlapping by half.
    real_offset: Offset = "random"
    fake_offset: Offset = "start"
    clips_per_real_video: int = 1
    max_real_clips: int = 2048
    max_fake_clips: int = 2048
    max_real_frames: int = 50_000  # single images for FID, KID and IS, an equal share per video
    max_fake_frames: int = 50_000
    choice: Choice = "random"  # which videos and frames stay under a limit
    is_splits: int = 10
    is_samples: int = 0  # refuse the inception score with fewer samples; 0 takes all there are
    ddof: int = 1  # covariances divide by N - ddof
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clip_frames", "fake_stride", "clips_per_real_video", "is_splits"):
            require(getattr(self, name) >= 1, f"{name}: at least 1, got {getattr(self, name)}")
        limits = ("max_real_clips", "max_fake_clips", "max_real_frames", "max_fake_frames")
        for name in ("frame_size", "real_stride", "is_samples", "seed", *limits):
            require(getattr(self, name) >= 0, f"{name}: 0 or more, got {getattr(self, name)}")
        require(self.ddof in (0, 1), f"ddof: 0 or 1, got {self.ddof}")


def preset_names() -> list[str]:
    """The presets, `default` first."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return sorted(names, key=lambda name: name != "default")


def load_protocol(name: str, changes: Sequence[str] = ()) -> Protocol:
    """A preset by its name, or a YAML file by its path, with `key=value` changes.

    Raises:  ValueError or FileNotFoundError in one line, naming the key and the file
    """
    path = FOLDER / f"{name}.yaml" if name in preset_names() else Path(name)
    if path.suffix != ".yaml" or not path.is_file():
        raise FileNotFoundError(
            f"--protocol {name}: neither a preset ({', '.join(preset_names())}) nor a YAML file"
        )
    given = merge_sources(path, changes)
    given["name"] = f"{path.stem} (changed: {', '.join(sorted(changes))})" if changes else path.stem
    return build(Protocol(), given, path)
