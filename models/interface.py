"""What the rest of the project may expect of a method: networks, phases, a sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from configs.schema import MethodConfig, SamplingConfig, TrainConfig
from configs.shapes import VideoShape

Networks = Mapping[str, nn.Module]
Progress = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True)
class Batch:
    """What the data loader yields. Pixels are float32 in [-1, 1]."""

    videos: Tensor  # (B, F, 3, H, W)
    images: Tensor | None = None  # (B, I, 3, H, W), extra single frames; they carry no time
    labels: Tensor | None = None  # (B,) int64, class of each clip

    @property
    def frames(self) -> Tensor:
        """Clip and extra images in one tensor: (B, F + I, 3, H, W)."""
        if self.images is None:
            return self.videos
        return torch.cat([self.videos, self.images], dim=1)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; the copy may run beside the computation."""
        moved = [
            None if part is None else part.to(device, non_blocking=True)
            for part in (self.videos, self.images, self.labels)
        ]
        assert moved[0] is not None
        return Batch(moved[0], moved[1], moved[2])


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
        """The next noise of every video: (B, *shape) float32."""
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device)


class Method(ABC):
    """One way to learn to generate videos: networks, objective and sampler.

    A method knows nothing of files, ranks, moving averages, precision or checkpoints.
    """

    Config: ClassVar[type[MethodConfig]]
    Sampling: ClassVar[type[SamplingConfig]] = SamplingConfig
    # Settings below `method` that may change when a run goes on; the others say which model it is.
    adjustable: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: MethodConfig, shape: VideoShape, *, training: bool = True) -> None:
        """`shape` is that of one clip in pixels; without `training`, only what sampling needs
        is built, so that a sample asks for no download that only the loss would use."""
        self.config = config
        self.shape = shape
        self.training = training

    @abstractmethod
    def build_networks(self) -> dict[str, nn.Module]:
        """New trainable networks, by the names that phases and checkpoints use."""

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

    @abstractmethod
    def phases(self, step: int) -> Sequence[Phase]:
        """The optimizer steps that make up training step `step`, in order."""

    def preview_sampling(self) -> SamplingConfig:
        """Choices for the previews of a running training; override where the defaults are slow."""
        return self.Sampling()

    @abstractmethod
    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
    ) -> Tensor:
        """Generate len(noise) videos: (B, F, 3, H, W) float32 in [-1, 1] on the noise's device."""
