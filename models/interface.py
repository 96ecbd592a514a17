"""What the rest of the project may expect of a method: networks, phases, a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from configs.schema import MethodConfig, SamplingConfig, TrainConfig
from configs.shapes import FrameTimes, Spacing, VideoShape

Networks = Mapping[str, nn.Module]
Progress = Callable[[int, int], None]  # (steps done, steps in all)
CachedShapes = Mapping[str, tuple[int, ...]]  # of the cached parts of one frame, by name

CACHED = "cached/"  # what the loader puts before the name of a cached part


@dataclass(frozen=True)
class Batch:
    """What the data loader yields. Pixels are float32 in [-1, 1].

    From a cache (`data.cache`) there are no pixels, but what `Method.cached_parts` made of them:
    videos is then (B, F, 3, 0, 0), images is absent, and every part of `cached` holds the frames
    of the clip followed by the extra images.
    """

    videos: Tensor  # (B, F, 3, H, W)
    images: Tensor | None = None  # (B, I, 3, H, W), extra single frames; they carry no time
    labels: Tensor | None = None  # (B,) int64, class of each clip
    cached: Mapping[str, Tensor] | None = None  # (B, F + I, ...) by name, rounded as stored
    # With clip.spacing=random, in units of the frame interval:
    times: Tensor | None = None  # (B, F) float32, ascending whole numbers from 0 on
    available: Tensor | None = None  # (B,) int64, frames of the video that times may name

    @classmethod
    def of(cls, loaded: Mapping[str, Tensor]) -> Batch:
        """The batch whose tensors a loader gives by name, cached parts after `cached/`."""
        parts = {name: part for name, part in loaded.items() if not name.startswith(CACHED)}
        cached = {
            name.removeprefix(CACHED): part
            for name, part in loaded.items()
            if name.startswith(CACHED)
        }
        return cls(**parts, cached=cached or None)

    @property
    def frames(self) -> Tensor:
        """Clip and extra images in one tensor: (B, F + I, 3, H, W)."""
        if self.images is None:
            return self.videos
        return torch.cat([self.videos, self.images], dim=1)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; the copy may run beside the computation."""

        def move(part: Tensor | None) -> Any:
            return None if part is None else part.to(device, non_blocking=True)

        cached = self.cached and {name: move(part) for name, part in self.cached.items()}
        return Batch(
            videos=move(self.videos),
            images=move(self.images),
            labels=move(self.labels),
            cached=cached,
            times=move(self.times),
            available=move(self.available),
        )


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and the detached parts of it to log."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One optimizer step: which network moves, and which loss moves it.

    The loss must reach every parameter of that network, or DistributedDataParallel would
    wait for gradients that never come.
    """

    network: str
    loss: Callable[[Networks, Batch], Loss]
    name: str = ""  # of its loss and gradient norm in the log; by default the network's

    @property
    def title(self) -> str:
        """What the log calls it."""
        return self.name or self.network


class VideoNoise:
    """Standard normal noise that belongs to videos, not to batches.

    Each video draws from its own generator on the CPU, so that video k is the same whatever
    the batch size, the device or the number of processes.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def draw(self, *shape: int) -> Tensor:
        """The next noise of every video: (B, *shape) float32. A GPU goes on while it is copied."""
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        noise = torch.stack(rows)
        if self.device.type == "cuda":
            noise = noise.pin_memory()
        return noise.to(self.device, non_blocking=True)


class Method(ABC):
    """One way to learn to generate videos: networks, objective and sampler.

    A method knows nothing of files, ranks, moving averages, precision or checkpoints.
    """

    Config: ClassVar[type[MethodConfig]]
    Sampling: ClassVar[type[SamplingConfig]] = SamplingConfig
    # Settings below `method` that may change when a run goes on; the others say which model it is.
    adjustable: ClassVar[frozenset[str]] = frozenset()
    # The networks that sampling needs, by name; averages are kept of these alone. None: of all.
    sampled: ClassVar[tuple[str, ...] | None] = None

    spacing: ClassVar[Spacing] = "even"  # how frames lie in time where nobody says

    def __init__(
        self,
        config: MethodConfig,
        shape: VideoShape,
        *,
        training: bool = True,
        cached: CachedShapes | None = None,
        times: FrameTimes | None = None,
    ) -> None:
        """`shape` is that of one clip in pixels, `times` how its frames lie in time; without
        `training`, only what sampling needs is built, so that a sample asks for no download that
        only the loss would use. With `cached`, batches hold those parts instead of pixels, and
        what makes them is not built."""
        self.config = config
        self.shape = shape
        self.training = training
        self.cached = cached
        self.times = times or FrameTimes(shape.frames, self.spacing)
        self.set_up()

    def set_up(self) -> None:  # noqa: B027 (a method may have nothing to build)
        """Build the frozen helpers, and refuse settings that do not fit the clips; `config`,
        `shape`, `training`, `cached` and `times` are there."""

    @classmethod
    def without_files(cls, config: MethodConfig) -> MethodConfig:
        """Settings of networks of the same sizes that name no file, as far as that can be; with
        them networks are counted before the files are there."""
        return config

    @abstractmethod
    def build_networks(self) -> dict[str, nn.Module]:
        """New trainable networks, by the names that phases and checkpoints use. Without
        `training` only those of `sampled`."""

    def frozen_networks(self) -> dict[str, nn.Module]:
        """Pre-trained helpers that never train and are never saved, such as an autoencoder."""
        return {}

    def to(self, device: torch.device) -> Method:
        """Move the frozen helpers to a device."""
        for network in self.frozen_networks().values():
            network.to(device)
        return self

    def build_optimizer(self, network: nn.Module, settings: TrainConfig) -> Optimizer:
        """AdamW at settings.learning_rate; override where a recipe differs."""
        device = next(network.parameters()).device.type
        return AdamW(
            network.parameters(),
            lr=settings.learning_rate,
            betas=(settings.betas[0], settings.betas[1]),
            weight_decay=settings.weight_decay,
            fused=device in ("cpu", "cuda"),  # one kernel for all tensors
        )

    def cached_parts(self, frames: Tensor) -> dict[str, Tensor]:
        """What the losses need of frames (N, 3, H, W) in [-1, 1], to be made once and kept: every
        part (N, ...) float32, a function of its frame alone. ValueError where there is nothing."""
        raise ValueError(self._no_cache())

    def cached_names(self) -> Sequence[str]:
        """The parts of a cache that the losses of these settings read."""
        raise ValueError(self._no_cache())

    def cache_identity(self) -> dict[str, Any]:
        """Plain values on which `cached_parts` depend, beside the frames: names and settings of
        the frozen networks. Needs none of the networks. See `cache_files` for their weights."""
        raise ValueError(self._no_cache())

    def cache_files(self) -> dict[str, Sequence[Path]]:
        """The files that those networks' weights are read from, by network, where they are on
        this machine."""
        raise ValueError(self._no_cache())

    def _no_cache(self) -> str:
        return (
            f"data.cache: the method {type(self).__name__} works on pixels and has nothing to "
            f"cache; leave data.cache empty"
        )

    @property
    def calibration(self) -> int:
        """Micro batches that `calibrate` wants on each process; 0 calls it never."""
        return 0

    def calibrate(self, networks: Networks, batches: Iterable[Batch]) -> None:
        """Measure on the data, once before a new run, what the networks keep in float buffers.
        These are then averaged over the processes, so they should be means."""
        raise NotImplementedError

    @abstractmethod
    def phases(self, step: int) -> Sequence[Phase]:
        """The optimizer steps that make up training step `step`, in order."""

    def end_step(self, networks: Networks, step: int, clips: int) -> Mapping[str, Tensor]:
        """Change after training step `step` what no optimizer does; scalars to log.

        Called on every process, after the networks' float buffers were averaged over them, so
        that what follows from those is the same everywhere. `clips` is the number of clips in
        the step, of all processes and accumulation rounds.
        """
        return {}

    def preview_sampling(self) -> SamplingConfig:
        """Choices for the previews of a running training; override where the defaults are slow."""
        return self.Sampling()

    def preview(
        self, networks: Networks, noise: VideoNoise, progress: Progress | None = None
    ) -> Tensor:
        """What a running training shows: (B, F, 3, H, W) in [-1, 1]; samples, unless overridden."""
        return self.sample(networks, noise, self.preview_sampling(), progress)

    @abstractmethod
    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Generate len(noise) videos: (B, F, 3, H, W) float32 in [-1, 1] on the noise's device.

        `frames` is F where it is not that of the clips in training; a method that cannot make
        such videos raises ValueError, see `require_clip_frames`.
        """

    def seams(self, settings: SamplingConfig, frames: int | None = None) -> list[int]:
        """Where the parts of a video from `sample` meet: the first frame of each but the first.

        A method that makes videos at once has none.
        """
        return []

    def require_clip_frames(self, frames: int | None) -> None:
        """Raise ValueError unless videos as long as the clips of the training are asked for."""
        if frames not in (None, self.shape.frames):
            raise ValueError(
                f"frames: this method makes videos of {self.shape.frames} frames alone, "
                f"got {frames}"
            )
