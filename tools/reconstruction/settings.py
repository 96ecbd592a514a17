"""Settings of a reconstruction, checked: defaults <- YAML file <- key=value <- flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from configs.schema import require
from tools.reconstruction.splatting.fit_settings import FitSettings

CameraSource = Literal["auto", "colmap", "given", "fixed"]
DeviceName = Literal["auto", "cpu", "cuda"]
Style = Literal["col", "kva", "cho"]


@dataclass
class FrameSettings:
    """Which frames of a video are taken, and how large."""

    count: int = 32  # spread evenly over the range; 0 takes all
    start: int = 0  # first frame of the range
    stop: int = 0  # end of the range; 0: the end of the video
    size: int = 0  # longer side of the fit in pixels; 0: 96 on a CPU, 640 on a GPU
    fps: float = 8.0  # where the source does not tell its own

    def __post_init__(self) -> None:
        require(self.count == 0 or self.count >= 4, f"frames.count: 0 or 4 up, got {self.count}")
        require(self.start >= 0, f"frames.start: 0 or more, got {self.start}")
        require(self.stop >= 0, f"frames.stop: 0 or more, got {self.stop}")
        require(self.size == 0 or self.size >= 16, f"frames.size: 0 or 16 up, got {self.size}")
        require(0 < self.fps <= 1000, f"frames.fps: above 0, up to 1000, got {self.fps}")


@dataclass
class CameraSettings:
    """Where cameras come from."""

    source: CameraSource = "auto"
    poses: str | None = None  # file or folder of known cameras; implies `given`
    field_of_view: float = 90.0  # horizontal, degrees: COLMAP's start, or the fixed lens
    view_known: bool = False  # keep the field of view as it is
    judge: bool = True  # off keeps COLMAP's largest model whatever its figures
    threads: int = -1  # of COLMAP; -1: all cores
    time_limit: float = 900.0  # seconds for each run of COLMAP

    def __post_init__(self) -> None:
        require(
            1 <= self.field_of_view <= 175,
            f"cameras.field_of_view: 1 to 175 degrees, got {self.field_of_view}",
        )
        require(self.time_limit > 0, f"cameras.time_limit: above 0, got {self.time_limit}")


@dataclass
class DepthSettings:
    """Where depth comes from."""

    # none: that of the cameras' points, where they have some | shading: a guess from brightness,
    # for one fixed camera | depth maps (.npz, .npy, folder of PNG) | a TorchScript network (.pt)
    source: str = "none"
    network_side: int = 252  # shorter side of the pictures that a network sees, pixels

    def __post_init__(self) -> None:
        require(self.network_side >= 28, f"depth.network_side: 28 up, got {self.network_side}")


@dataclass
class QualitySettings:
    """How the result is judged."""

    test_every: int = 8  # every 8th frame is kept from the fit, at least two; 0 keeps none
    lpips: str = ""  # VGG-16: a file, `cache` or `download`; empty leaves LPIPS out
    truth: str | None = None  # truth of the simulator (.npz), or depth maps, to compare with
    true_poses: str | None = None  # known cameras to compare the found ones with

    def __post_init__(self) -> None:
        require(self.test_every >= 0, f"quality.test_every: 0 or more, got {self.test_every}")


@dataclass
class SimulationSettings:
    """The built-in test: a simulated clip, whose cameras and depth are known."""

    seed: int | None = None  # none: no simulation, a video is given
    style: Style = "col"
    frames: int = 16
    size: int = 128
    deformation: float = 0.0  # 1: the organ breathes as in tools.simulate
    motion: float = 4.0  # speed of the scope; 1 as in tools.simulate


@dataclass
class OutputSettings:
    """What is written beside the scene."""

    novel_distance: float = 0.05  # sideways way of the novel path, in median depths
    save_seconds: float = 60.0  # between checkpoints of the fit

    def __post_init__(self) -> None:
        require(
            0 <= self.novel_distance <= 1,
            f"output.novel_distance: 0 to 1, got {self.novel_distance}",
        )
        require(self.save_seconds > 0, f"output.save_seconds: above 0, got {self.save_seconds}")


@dataclass
class Reconstruction:
    """All that the result of one scene depends on."""

    frames: FrameSettings = field(default_factory=FrameSettings)
    cameras: CameraSettings = field(default_factory=CameraSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
    masks: str | None = None  # folder of pictures, one a frame, or one for all: white is ignored
    fit: FitSettings = field(default_factory=FitSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    simulate: SimulationSettings = field(default_factory=SimulationSettings)
    device: DeviceName = "auto"
    seed: int = 0
