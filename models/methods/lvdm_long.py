"""Long videos by LVDM's hierarchy (arXiv 2211.13221, section 3.3).

Two networks learn from the same clips. `prediction` sees key latents, which lie some latent frames
apart, and goes on from the last of them; `interpolation` fills the latent frames between two keys.
Both are given frames: these enter slightly noised, at a level that the network is told, in place of
the noisy ones, and a mask says which they are. Both also learn clips without given frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from configs.schema import SamplingConfig, require
from diffusion.samplers import Denoise, SamplerName
from diffusion.schedule import NoiseSchedule, at
from models.backbones.latent_denoiser import LatentDenoiser
from models.interface import (
    Batch,
    Loss,
    Networks,
    Phase,
    Progress,
    VideoNoise,
)
from models.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    LatentDiffusionSampling,
)

PREDICTION, INTERPOLATION = "prediction", "interpolation"


@dataclass
class LvdmLongConfig(LatentDiffusionConfig):
    key_every: int = 4  # latent frames from one key latent to the next
    predict_given: float = 0.5  # share of the clips of `prediction` whose first key is given
    interpolate_given: float = 0.9  # share of those of `interpolation` whose two ends are given
    levels: int = 250  # noise levels that given frames are brought to in training
    # What a network is told where no frames are given: a row of its own, or, as in the original,
    # a drawn level in training and nothing when sampling, which imported weights know.
    unconditional: Literal["row", "none"] = "row"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.key_every >= 2, f"method.key_every: at least 2, got {self.key_every}")
        for name in ("predict_given", "interpolate_given"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"method.{name}: from 0 to 1, got {value}")
        require(1 <= self.levels <= 1000, f"method.levels: from 1 to 1000, got {self.levels}")


@dataclass
class LvdmLongSampling(LatentDiffusionSampling):
    sampler: SamplerName = "ddim"
    steps: int = 50
    given_level: int = 100  # noise level of given frames, below method.levels
    # Weight w of guidance by the given frames: e_c + w (e_c - e_u) in the mode `original`,
    # e_u + w (e_c - e_u) in `standard`, of the noise predicted with and without them.
    guidance: float = 0.1
    guidance_mode: Literal["original", "standard"] = "original"
    gaps_at_once: int = 8  # gaps between keys, of each video, that are filled together

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.given_level >= 0, f"sampling.given_level: 0 or more, got {self.given_level}")
        require(
            self.gaps_at_once >= 1, f"sampling.gaps_at_once: at least 1, got {self.gaps_at_once}"
        )

    @property
    def strength(self) -> float:
        """s in e_u + s (e_c - e_u); 1 needs no prediction without the given frames."""
        return self.guidance + (self.guidance_mode == "original")


class Plan(NamedTuple):
    """How many key latents a video needs, and what follows from it."""

    keys: int
    predictions: int  # clips of key latents after the first
    latents: int


def plan_video(latents: int, clip_keys: int, key_every: int) -> Plan:
    """The fewest clips of keys, each going on from the last one's last key, that give `latents`.

    k keys with all gaps filled are key_every * (k - 1) + 1 latents.
    """
    wanted = -(-(latents - 1) // key_every) + 1
    predictions = max(0, -(-(wanted - clip_keys) // (clip_keys - 1)))
    keys = clip_keys + predictions * (clip_keys - 1)
    return Plan(keys, predictions, key_every * (keys - 1) + 1)


class Given(NamedTuple):
    """Frames that a clip is given: values (B, F, C, h, w), of which those count where mask
    (B, F) is 1."""

    values: Tensor
    mask: Tensor


class LvdmLong(LatentDiffusion):
    Config = LvdmLongConfig
    Sampling = LvdmLongSampling
    adjustable = LatentDiffusion.adjustable | {"predict_given", "interpolate_given"}
    config: LvdmLongConfig

    def set_up(self) -> None:
        super().set_up()
        every, time = self.config.key_every, self.codec.factors[0]
        require(
            self.latents.frames % every == 0 and self.latents.frames >= 2 * every,
            f"clip.frames: key latents lie {every * time} frames apart (method.key_every={every} "
            f"latents of {time} frames), so clips are a multiple of it, of two or more; "
            f"got {self.shape.frames}",
        )
        self.keys = self.latents.frames // every  # of a clip of `prediction`
        self.between = every + 1  # latents of a clip of `interpolation`, both ends included

    def build_networks(self) -> dict[str, nn.Module]:
        rows = self.config.levels + 1
        return {
            PREDICTION: self.build_denoiser(self.keys, masked=True, levels=rows),
            INTERPOLATION: self.build_denoiser(self.between, masked=True, levels=rows),
        }

    # ------------------------------------------------------------ training

    def phases(self, step: int) -> Sequence[Phase]:
        return [
            Phase(PREDICTION, self.prediction_loss),
            Phase(INTERPOLATION, self.interpolation_loss),
        ]

    def prediction_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Key latents of whole clips, in `predict_given` of the cases with the first one given."""
        network = networks[PREDICTION]
        clean = self.encode(network, batch.videos)[:, :: self.config.key_every]
        mask = _ends(self.keys, last=False, like=clean)
        return self._given_loss(network, clean, mask, self.config.predict_given)

    def interpolation_loss(self, networks: Networks, batch: Batch) -> Loss:
        """All latents of a random piece of each clip, as a rule with both ends given."""
        network, videos = networks[INTERPOLATION], batch.videos
        length = self.between * self.codec.factors[0]
        starts = torch.randint(
            0, videos.shape[1] - length + 1, (len(videos), 1), device=videos.device
        )
        frames = starts + torch.arange(length, device=videos.device)
        pieces = videos[torch.arange(len(videos), device=videos.device)[:, None], frames]
        clean = self.encode(network, pieces)
        mask = _ends(self.between, last=True, like=clean)
        return self._given_loss(network, clean, mask, self.config.interpolate_given)

    def _given_loss(self, network: nn.Module, clean: Tensor, mask: Tensor, share: float) -> Loss:
        """Mean absolute error of the predicted noise (or velocity), of given frames their own.

        Inputs:  clean (B, F, C, h, w); mask (F,), 1 on frames that are given in `share` of the
                 clips
        """
        count = len(clean)
        is_given = torch.rand(count, device=clean.device) < share
        mask = mask * is_given[:, None]
        level = self.draw_levels(clean)
        given_level = at_given = torch.randint(0, self.config.levels, (count,), device=clean.device)
        noise = torch.randn_like(clean)  # every frame has one noise, whatever its level
        plane = mask[:, :, None, None, None]
        noisy = torch.where(
            plane > 0,
            self.schedule.add_noise(clean, noise, given_level),
            self.schedule.add_noise(clean, noise, level),
        )
        if self.config.unconditional == "row":
            given_level = torch.where(is_given, given_level, self.config.levels)
        wanted = torch.where(
            plane > 0,
            self.target(clean, noise, at_given),
            self.target(clean, noise, level),
        )
        predicted = network(noisy, level, mask, given_level)
        return Loss((wanted - predicted.float()).abs().mean())

    # ------------------------------------------------------------ sampling

    def plan(self, frames: int) -> Plan:
        """What a video of so many frames takes."""
        return plan_video(-(-frames // self.codec.factors[0]), self.keys, self.config.key_every)

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        assert isinstance(settings, LvdmLongSampling)
        require(
            settings.given_level < self.config.levels,
            f"sampling.given_level: below method.levels={self.config.levels}, got "
            f"{settings.given_level}",
        )
        frames = frames or self.shape.frames
        prediction = self.checked(networks[PREDICTION])
        interpolation = self.checked(networks[INTERPOLATION])
        plan, needed = self.plan(frames), -(-frames // self.codec.factors[0])
        gaps = -(-(needed - 1) // self.config.key_every)  # keys beyond them are not shown
        groups = _groups(gaps, settings.gaps_at_once)
        run = _Run(self, settings, noise, progress, runs=1 + plan.predictions + len(groups))
        keys = run.predict(prediction, plan)
        latents = run.interpolate(interpolation, keys, groups)
        return self.decode(prediction, latents[:, :needed], frames)

    def seams(self, settings: SamplingConfig, frames: int | None = None) -> list[int]:
        """The keys, where two interpolated clips meet."""
        frames, apart = frames or self.shape.frames, self.config.key_every * self.codec.factors[0]
        return list(range(apart, frames, apart))

    def conditional_denoise(
        self, network: LatentDenoiser, settings: LvdmLongSampling, given: Given | None
    ) -> Denoise:
        """The predicted noise as a function of (noisy, timestep), guided by given frames.

        The network reads given frames in place of the sampler's own; without them it reads the
        sampler's, which nothing has touched. At given places the sampler goes on with the
        prediction without them, or, where there is none, towards the given values.
        """

        def alone(noisy: Tensor, timestep: Tensor) -> Tensor:
            row = torch.full_like(timestep, self.config.levels)
            level = row if self.config.unconditional == "row" else None
            nothing = torch.zeros(noisy.shape[:2], device=noisy.device)
            return self.as_noise(network(noisy, timestep, nothing, level), noisy, timestep)

        if given is None:
            return alone
        plane = given.mask[:, :, None, None, None] > 0

        def guided(noisy: Tensor, timestep: Tensor) -> Tensor:
            level = torch.full_like(timestep, settings.given_level)
            entered = torch.where(plane, given.values, noisy)
            output = network(entered, timestep, given.mask, level)
            conditional = self.as_noise(output, entered, timestep)
            if settings.strength == 1:
                signal = at(self.schedule.signal, timestep, noisy)
                deviation = at(self.schedule.noise, timestep, noisy)
                return torch.where(plane, (noisy - signal * given.values) / deviation, conditional)
            base = alone(noisy, timestep)
            mixed = base + settings.strength * (conditional - base)
            return torch.where(plane, base, mixed)

        return guided


class _Run:
    """The making of one batch of videos: runs of the sampler, one after the other."""

    def __init__(
        self,
        method: LvdmLong,
        settings: LvdmLongSampling,
        noise: VideoNoise,
        progress: Progress | None,
        runs: int,
    ) -> None:
        self.method, self.settings, self.noise = method, settings, noise
        self.levels: NoiseSchedule = settings.levels(method.schedule)
        self.progress, self.runs, self.done = progress, runs, 0

    def predict(self, network: LatentDenoiser, plan: Plan) -> Tensor:
        """All key latents: (B, keys, C, h, w)."""
        count, length = len(self.noise), self.method.keys
        keys = self._sample(network, length, None)
        mask = _ends(length, last=False, like=keys).expand(count, -1)
        for _ in range(plan.predictions):
            values = torch.zeros_like(keys[:, :length])
            values[:, :1] = self._noised(keys[:, -1:])
            clip = self._sample(network, length, Given(values, mask))
            keys = torch.cat([keys, clip[:, 1:]], dim=1)
        return keys

    def interpolate(self, network: LatentDenoiser, keys: Tensor, groups: Sequence[range]) -> Tensor:
        """The latents of these gaps, which are the first ones, with the keys around them:
        (B, key_every * gaps + 1, C, h, w)."""
        count, length = len(keys), self.method.between
        pieces = [keys[:, :1]]
        for group in groups:
            ends = torch.stack([keys[:, gap : gap + 2] for gap in group], dim=1)  # (B, G, 2, ...)
            noised = self._noised(ends.flatten(1, 2)).unflatten(1, (-1, 2)).flatten(0, 1)
            values = noised.new_zeros(len(noised), length, *noised.shape[2:])
            values[:, 0], values[:, -1] = noised[:, 0], noised[:, 1]
            mask = _ends(length, last=True, like=keys).expand(len(values), -1)
            clips = self._sample(network, length, Given(values, mask), repeats=len(group))
            inner = clips[:, 1:-1].unflatten(0, (count, -1))
            following = ends[:, :, 1:]  # every gap, then the key after it
            pieces.append(torch.cat([inner, following], dim=2).flatten(1, 2))
        return torch.cat(pieces, dim=1)

    def _sample(
        self, network: LatentDenoiser, length: int, given: Given | None, repeats: int = 1
    ) -> Tensor:
        """`repeats` clips of every video: (B * repeats, length, C, h, w)."""
        grid = self.method.grid(self.settings, length)

        def draw() -> Tensor:
            return self.noise.draw(repeats, *grid).flatten(0, 1)

        each = len(self.levels)

        def report(done: int, total: int) -> None:
            if self.progress:
                self.progress(self.done * each + done, self.runs * each)

        denoise = self.method.conditional_denoise(network, self.settings, given)
        clips = self.settings.function(self.levels, denoise, draw(), draw, report)
        self.done += 1
        return clips

    def _noised(self, latents: Tensor) -> Tensor:
        """Latents (B, n, ...) at the level of given frames, each with a noise of its own."""
        level = torch.full((len(latents),), self.settings.given_level, device=latents.device)
        fresh = self.noise.draw(*latents.shape[1:])
        return self.method.schedule.add_noise(latents, fresh, level)


def _ends(length: int, *, last: bool, like: Tensor) -> Tensor:
    """Which frames are given: the first and, where `last`, the last: (length,) of 0 and 1."""
    mask = torch.zeros(length, device=like.device)
    mask[0] = 1
    if last:
        mask[-1] = 1
    return mask


def _groups(count: int, size: int) -> list[range]:
    """0, 1, ..., count - 1 in pieces of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


METHOD = LvdmLong
