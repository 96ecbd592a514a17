"""Settings that all methods share, with their units, defaults and the checks that join them.

A method adds its own section, `method`, as a subclass of `MethodConfig`; its choices when
sampling are a subclass of `SamplingConfig`. Both live beside the method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from configs.shapes import FrameTimes, Spacing, VideoShape

Precision = Literal["auto", "fp32", "bf16"]
Layout = Literal["auto", "videos", "frames"]
Sharding = Literal["none", "full"]
SampleFormat = Literal["mp4", "png", "npz", "gif"]
LightExtractor = Literal["untrained", "efficientnet"]


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass
class ClipConfig:
    """The fixed-length piece of video that a method learns."""

    frames: int = 16
    size: int = 128  # pixels, height and width
    frame_interval: int = 3  # source frames from one frame of a clip to the next
    # even: that many source frames between all neighbours. random: frames at random times, as
    # models of continuous time need them; the interval is then the unit of their times.
    spacing: Spacing = "even"
    longest_span: int = 32  # random: intervals from the first frame to the last, at most
    longest_video: int = 1024  # random: of a longer video a random window of so many intervals

    def __post_init__(self) -> None:
        require(
            self.frames >= 2,
            f"clip.frames: a video needs at least 2 frames, got {self.frames}",
        )
        require(self.size >= 8, f"clip.size: at least 8 pixels, got {self.size}")
        require(
            self.frame_interval >= 1,
            f"clip.frame_interval: at least 1 source frame, got {self.frame_interval}",
        )
        require(
            self.spacing == "even" or self.longest_span >= self.frames - 1,
            f"clip.longest_span: {self.frames} frames span at least {self.frames - 1} intervals, "
            f"got {self.longest_span}",
        )
        require(
            self.spacing == "even" or self.longest_video >= self.frames,
            f"clip.longest_video: at least the {self.frames} frames of a clip, "
            f"got {self.longest_video}",
        )

    @property
    def shape(self) -> VideoShape:
        """(F, 3, H, W) of one clip in pixels."""
        return VideoShape(self.frames, 3, self.size, self.size)

    @property
    def times(self) -> FrameTimes:
        """How the frames of a clip lie in time."""
        return FrameTimes(self.frames, self.spacing, self.longest_span, self.longest_video)


@dataclass
class DataConfig:
    """Where clips and extra images come from."""

    folder: str = MISSING  # videos, or one folder of frames per video
    layout: Layout = "auto"  # what the folder holds; auto looks
    list: str | None = None  # list file of frames (process_list.py); its own folder is the root
    labels: str | None = None  # CSV with columns name,label, for conditional models
    images_per_clip: int = 8  # extra single frames beside each clip; 0 trains on clips alone
    cache: str | None = None  # folder made by tools.cache: train on it without codec, prior, videos
    flip: bool = True  # random horizontal flip, one decision for all frames of a clip
    workers: int = 4  # loader processes; the order of the data does not depend on it

    def __post_init__(self) -> None:
        require(
            self.images_per_clip >= 0,
            f"data.images_per_clip: 0 or more, got {self.images_per_clip}",
        )
        require(self.workers >= 0, f"data.workers: 0 or more, got {self.workers}")


@dataclass
class TrainConfig:
    """The training loop; the same for every method."""

    steps: int = 1_000_000  # optimizer steps
    batch_size: int = 5  # items per process and accumulation round
    accumulation: int = 1  # rounds whose gradients are averaged into one step
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = 0  # the learning rate rises linearly over these
    clip_norm: float = 0.1  # largest gradient norm; 0 never clips
    clip_from_step: int = 0  # clip from this step on; before it the norm is only measured
    ema_decays: list[float] = field(default_factory=lambda: [0.9999])  # the first one samples
    ema_warmup: bool = False  # decay min(decay, (1 + step) / (10 + step)), for short runs
    ema_rampup: float = (
        0.0  # an average's half-life is at most this share of the steps done; 0: off
    )
    precision: Precision = "auto"  # auto: bf16 autocast on GPUs that have it, fp32 elsewhere
    compile: bool | str = "auto"  # torch.compile of the networks' blocks; auto: on GPUs
    sharding: Sharding = "none"  # full: spread over the processes what does not fit on one GPU
    initial_weights: str | None = None  # weights (.safetensors) that a new run starts from
    seed: int = 3407
    log_every: int = 50  # steps
    save_every: int = 1000  # steps; a stop by SIGTERM saves too
    keep_last: int = 3  # newest checkpoints kept
    keep_every: int = 0  # also keep every checkpoint whose step this divides; 0 keeps none
    preview_every: int = 5000  # steps between sample previews from fixed noise; 0 makes none
    preview_count: int = 4  # videos in a preview
    metrics_every: int = 0  # steps between light metrics (never comparable ones); 0 makes none
    metrics_count: int = 64  # videos sampled for them, and twice as many training clips
    metrics_extractor: LightExtractor = "untrained"  # efficientnet: real features, of a package

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "save_every"):
            require(
                getattr(self, name) >= 1, f"train.{name}: at least 1, got {getattr(self, name)}"
            )
        every = ("keep_every", "preview_every", "metrics_every")
        for name in ("warmup_steps", "clip_norm", "clip_from_step", *every):
            require(getattr(self, name) >= 0, f"train.{name}: 0 or more, got {getattr(self, name)}")
        require(self.keep_last >= 1, f"train.keep_last: at least 1, got {self.keep_last}")
        require(
            self.preview_count >= 1, f"train.preview_count: at least 1, got {self.preview_count}"
        )
        require(
            self.metrics_count >= 2, f"train.metrics_count: at least 2, got {self.metrics_count}"
        )
        require(
            self.compile in (True, False, "auto"),
            f"train.compile: true, false or auto, got {self.compile}",
        )
        require(self.learning_rate > 0, f"train.learning_rate: above 0, got {self.learning_rate}")
        require(
            bool(self.ema_decays), "train.ema_decays: name at least one decay, such as [0.9999]"
        )
        for decay in self.ema_decays:
            require(0 <= decay < 1, f"train.ema_decays: each in [0, 1), got {decay}")
        require(self.ema_rampup >= 0, f"train.ema_rampup: 0 or more, got {self.ema_rampup}")


@dataclass
class MethodConfig:
    """Base of every method's own settings."""


@dataclass
class SamplingConfig:
    """Base of every method's own choices when sampling."""


@dataclass
class RunConfig:
    """One training run: everything that shapes its result."""

    method_name: str = MISSING  # a file name in models/methods
    output: str = MISSING  # run folder: checkpoints, logs, previews
    clip: ClipConfig = field(default_factory=ClipConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: MethodConfig = field(default_factory=MethodConfig)


@dataclass
class SampleConfig:
    """One sampling job. The checkpoint says which model and which sizes."""

    checkpoint: str = MISSING  # a run folder, a checkpoint or exported weights
    output: str | None = None  # folder of the samples; none: samples/step_N of the run folder
    count: int = 16  # videos
    frames: int | None = None  # of every video; none: as many as the clips of the training
    seed: int = 0  # video k is made from seed + k, whatever the batch or the number of GPUs
    batch_size: int = 4  # videos made together on one device
    formats: list[SampleFormat] = field(default_factory=lambda: ["mp4"])
    fps: float = 8.0  # frames per second of the files
    ema: int = 0  # which of the run's moving averages; -1 takes the raw weights
    precision: Precision = "auto"
    compile: bool | str = "auto"  # torch.compile of the networks; auto: for many videos on a GPU
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        require(self.count >= 1, f"count: at least 1 video, got {self.count}")
        require(self.batch_size >= 1, f"batch_size: at least 1 video, got {self.batch_size}")
        require(bool(self.formats), "formats: name at least one of mp4, png, npz, gif")
        require(self.frames is None or self.frames >= 1, f"frames: at least 1, got {self.frames}")
        require(self.fps > 0, f"fps: above 0, got {self.fps}")
        require(
            self.compile in (True, False, "auto"),
            f"compile: true, false or auto, got {self.compile}",
        )
        require(self.ema >= -1, f"ema: -1 (raw weights) or the index of a decay, got {self.ema}")
