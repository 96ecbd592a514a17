"""Endora (MICCAI 2024, arXiv 2403.11050): latent video diffusion guided by an image prior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from configs.schema import MethodConfig, SamplingConfig, require
from configs.shapes import VideoShape
from diffusion.extension import WindowNoise, Windows, extended, mixed_noise
from diffusion.objective import denoising_terms
from diffusion.samplers import SAMPLERS, SOLVERS, Denoise, SamplerName
from diffusion.schedule import NoiseSchedule, at
from diffusion.spacing import fractional_timesteps, integer_timesteps, log_snr_timesteps
from models.backbones.block_reuse import BlockReuse, computed_steps, modulation_changes
from models.backbones.video_transformer import VideoTransformer
from models.codecs.build import CodecConfig, build_codec, codec_files
from models.codecs.interface import Codec, draw_latents
from models.interface import (
    Batch,
    Loss,
    Method,
    Networks,
    Phase,
    Progress,
    VideoNoise,
)
from models.priors.alignment import GUIDANCE, Grid
from models.priors.features import PriorConfig, PriorFeatures, prior_files, prior_grids

# Names of the cached parts of a latent; those of the prior's layers are prior.0, prior.1, ...
MEAN, LOG_VARIANCE = "mean", "log_variance"

# depth, width, heads (DiT, table 1)
SIZES = {
    "XL": (28, 1152, 16),
    "L": (24, 1024, 16),
    "B": (12, 768, 12),
    "S": (12, 384, 6),
}


@dataclass
class TransformerConfig:
    """Sizes of the denoiser. `depth`, `width` and `heads` replace those of the preset."""

    size: Literal["S", "B", "L", "XL"] = "XL"
    patch: int = 2  # side of a token in latent cells: 2, 4 or 8 in the presets' papers
    depth: int | None = None  # blocks, spatial and temporal counted alike
    width: int | None = None  # channels of a token
    heads: int | None = None  # of the attention
    interlaced: bool = True  # alternate spatial and temporal blocks; false: all spatial first
    classes: int = 0  # class labels; 0 is an unconditional model
    class_dropout: float = 0.1  # probability that training hides the label
    # Activations that the backward pass computes again. true: all, for about a third more time;
    # half: those of every second pair of blocks; mlp: those inside the MLPs, for a tenth more.
    checkpointing: bool | str = False

    def __post_init__(self) -> None:
        for name in ("patch", "depth", "width", "heads"):
            value = getattr(self, name)
            require(
                value is None or value >= 1,
                f"method.transformer.{name}: at least 1, got {value}",
            )
        depth, width, heads = self.sizes
        require(depth % 2 == 0, f"method.transformer.depth: an even number, got {depth}")
        require(
            width % heads == 0 and width % 4 == 0,
            f"method.transformer.width: a multiple of 4 and of the {heads} heads, got {width}",
        )
        require(
            self.checkpointing in (True, False, "half", "mlp"),
            f"method.transformer.checkpointing: true, false, half or mlp, got {self.checkpointing}",
        )
        require(self.classes >= 0, f"method.transformer.classes: 0 or more, got {self.classes}")
        require(
            0 <= self.class_dropout <= 1,
            f"method.transformer.class_dropout: from 0 to 1, got {self.class_dropout}",
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(depth, width, heads) after the preset."""
        depth, width, heads = SIZES[self.size]
        return self.depth or depth, self.width or width, self.heads or heads


@dataclass
class EndoraConfig(MethodConfig):
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    # What the network's first C output channels are. `noise` is the paper's. `velocity`
    # (arXiv 2202.00512) weighs the noisiest levels, which decide a picture's structure, more by
    # 1 / alpha_bar: short trainings of small models need it.
    prediction: Literal["noise", "velocity"] = "noise"

    # Share of a clip's noise variance that all its frames have in common (arXiv 2305.10474, mixed
    # noise). 0 is the paper's; more makes detail hold still sooner, as it comes from one noise.
    shared_noise: float = 0.0

    # How the noise levels of a micro batch of B items are drawn: each by itself, or one from each
    # of B equal strata. The expected loss is the same; its variance is a quarter with 5 items,
    # and that of the gradient a third less with 8 (measured on the demo's model).
    timesteps: Literal["uniform", "stratified"] = "uniform"

    def __post_init__(self) -> None:
        require(
            0 <= self.shared_noise < 1,
            f"method.shared_noise: at least 0 and below 1, got {self.shared_noise}",
        )
        pairs = self.transformer.sizes[0] // 2
        if self.prior.weight:
            require(
                all(0 <= pair < pairs for pair in self.prior.pairs),
                f"method.prior.pairs: this transformer has pairs 0..{pairs - 1}, "
                f"got {self.prior.pairs}",
            )


@dataclass
class EndoraSampling(SamplingConfig):
    sampler: SamplerName = "ddpm"
    steps: int = 250
    spacing: Literal["auto", "fractional", "integer", "log_snr"] = "auto"  # of the timesteps
    guidance: float = 1.0  # classifier-free guidance scale; 1 is none
    label: int | None = None  # class of every video; none draws without a label
    # Relative change of the first block's input, summed over steps, from which on all blocks run
    # again; in between what they added is reused. 0 runs them at every step, 0.1 at about a fifth
    # of 250 steps. It pays with many steps (ddpm, ddim); unipc3 with 12 steps is better still.
    reuse: float = 0.0
    decode: Literal["fp32", "bf16"] = "fp32"  # of latents to pixels; bf16 takes half the time

    # Of videos of more frames than a clip (frames=N), made by windows that overlap:
    overlap: int = 2  # frames of a window that are the last ones of the window before
    # Backward passes at every step that bring new frames in line with the ones before. Each costs
    # about as much as the step itself once more.
    corrections: int = 1

    def __post_init__(self) -> None:
        require(self.reuse >= 0, f"sampling.reuse: 0 or more, got {self.reuse}")
        require(self.overlap >= 1, f"sampling.overlap: at least 1 frame, got {self.overlap}")
        require(self.corrections >= 0, f"sampling.corrections: 0 or more, got {self.corrections}")


Network = Callable[..., Any]  # (noisy, timestep, labels) -> something with a `prediction`


class DenoiserOutput(NamedTuple):
    """prediction (B, F + I, 2C, h, w); guidance loss () or none."""

    prediction: Tensor
    guidance: Tensor | None


class GuidedDenoiser(nn.Module):
    """The video transformer with the head that compares its features to a prior's."""

    def __init__(
        self, latents: VideoShape, config: EndoraConfig, grids: Sequence[Grid] = ()
    ) -> None:
        super().__init__()
        depth, width, heads = config.transformer.sizes
        self.transformer = VideoTransformer(
            latents,
            width=width,
            depth=depth,
            heads=heads,
            patch=config.transformer.patch,
            interlaced=config.transformer.interlaced,
            classes=config.transformer.classes,
            class_dropout=config.transformer.class_dropout,
            checkpointing=config.transformer.checkpointing,
        )
        self.pairs = list(config.prior.pairs) if config.prior.weight else []
        if self.pairs:
            self.guide = GUIDANCE[config.prior.loss](config.prior, self.transformer.tokens, grids)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        labels: Tensor | None = None,
        prior: Sequence[Tensor] | None = None,
    ) -> DenoiserOutput:
        """Inputs: noisy (B, F + I, C, h, w), timestep (B,), labels (B,); prior maps, one
        (B, F + I, E, h, w) per layer, are given in training only."""
        pairs = self.pairs if prior is not None else []
        prediction, features = self.transformer(noisy, timestep, labels, pairs)
        if prior is not None:
            return DenoiserOutput(prediction, self.guide(features, prior))
        if self.pairs and self.training:
            # Steps without guidance: a zero that reaches every parameter of the head, for
            # parallel training waits for the gradient of each.
            return DenoiserOutput(
                prediction,
                0 * torch.cat([parameter.flatten() for parameter in self.guide.parameters()]).sum(),
            )
        return DenoiserOutput(prediction, None)


class Endora(Method):
    Config = EndoraConfig
    Sampling = EndoraSampling
    adjustable = frozenset(
        {
            "codec.weights",  # a folder may move
            "codec.encode",
            "prior.weights",
            "prior.weight",
            "prior.until_step",
            "transformer.checkpointing",
            "transformer.class_dropout",
            "timesteps",
        }
    )
    config: EndoraConfig

    def set_up(self) -> None:
        self._device = torch.device("cpu")
        self._codec = build_codec(self.config.codec) if self.cached is None else None
        own_prior = self.guided and self.training and self.cached is None
        self.prior = PriorFeatures(self.config.prior, self.shape.height) if own_prior else None
        self.schedule = NoiseSchedule.linear()
        if self.cached is None:
            self.latents = self.shape.downscale(self.codec.stride, self.codec.channels)
        else:
            self.latents = VideoShape(self.shape.frames, *self.cached[MEAN])
        self.latents.downscale(self.config.transformer.patch, 1)  # must divide

    @property
    def codec(self) -> Codec:
        """The codec; beside a cache it is built at first use, for only previews decode."""
        if self._codec is None:
            self._codec = build_codec(self.config.codec).to(self._device)
        return self._codec

    @property
    def guided(self) -> bool:
        """Whether a prior guides the training."""
        return self.config.prior.weight > 0

    def build_networks(self) -> dict[str, nn.Module]:
        return {"denoiser": GuidedDenoiser(self.latents, self.config, self._prior_grids())}

    def frozen_networks(self) -> dict[str, nn.Module]:
        built = {"codec": self._codec, "prior": self.prior}
        return {name: network for name, network in built.items() if network is not None}

    def to(self, device: torch.device) -> Method:
        self._device = device
        return super().to(device)

    def _prior_grids(self) -> Sequence[Grid]:
        if not self.guided:
            return ()
        if self.prior:
            return self.prior.grids
        if self.cached is not None:
            shapes = [self.cached[name] for name in self._prior_names()]
            return [(width, height, columns) for width, height, columns in shapes]
        return prior_grids(self.config.prior, self.shape.height)

    # ------------------------------------------------------------ what a cache keeps

    def cached_parts(self, frames: Tensor) -> dict[str, Tensor]:
        """`mean` (N, C, h, w) of the latents, for a variational codec `log_variance` alike, so
        that training draws from the posterior anew; `prior.K` (N, E, h, w) of each layer."""
        mean, log_variance = self.codec.encode_moments(frames)
        parts = {MEAN: mean} | ({} if log_variance is None else {LOG_VARIANCE: log_variance})
        maps = self.prior(frames) if self.prior else []
        return parts | dict(zip(self._prior_names(), maps, strict=True))

    def cached_names(self) -> Sequence[str]:
        assert self.cached is not None
        latents = [name for name in (MEAN, LOG_VARIANCE) if name in self.cached]
        return [*latents, *self._prior_names()]

    def cache_identity(self) -> dict[str, Any]:
        codec, prior = self.config.codec, self.config.prior
        stride = codec.stride if codec.name == "pixels" else None
        identity: dict[str, Any] = {
            "codec": {
                "name": codec.name,
                "weights": codec.weights,
                "stride": stride,
                "encode": codec.encode,
            }
        }
        if self.guided:
            kept = {"name", "weights", "layers", "normalize"}
            settings = dataclasses.asdict(prior)
            identity["prior"] = {key: settings[key] for key in sorted(kept)}
        return identity

    def cache_files(self) -> dict[str, Sequence[Path]]:
        files: dict[str, Sequence[Path]] = {"codec": codec_files(self.config.codec)}
        return files | ({"prior": prior_files(self.config.prior)} if self.guided else {})

    def _prior_names(self) -> list[str]:
        return [f"prior.{k}" for k in range(len(self.config.prior.layers))] if self.guided else []

    def phases(self, step: int) -> Sequence[Phase]:
        over = 0 < self.config.prior.until_step <= step
        weight = 0.0 if over else self.config.prior.weight
        return [Phase("denoiser", lambda networks, batch: self.loss(networks, batch, weight))]

    def loss(self, networks: Networks, batch: Batch, prior_weight: float) -> Loss:
        """Predict the noise in the latents, and keep the features close to the prior's."""
        self._check_labels(batch.labels)
        latents, prior = self._encoded(batch, guided=prior_weight > 0)
        level = self.schedule.draw_levels(
            len(latents), latents.device, stratified=self.config.timesteps == "stratified"
        )
        noise = self._mixed(torch.randn_like(latents))
        noisy = self.schedule.add_noise(latents, noise, level)

        output = networks["denoiser"](noisy, level, batch.labels, prior)
        prediction = self._as_noise(output.prediction, noisy, level)
        terms = denoising_terms(self.schedule, prediction, latents, noise, level)
        mse, vb = (terms.mse * self._weight(level)).mean(), terms.vb.mean()
        parts = {"mse": mse.detach(), "vb": vb.detach()}
        total = mse + vb
        if output.guidance is not None:
            total = total + prior_weight * output.guidance
            parts["prior"] = output.guidance.detach()
        return Loss(total, parts)

    def _encoded(self, batch: Batch, *, guided: bool) -> tuple[Tensor, list[Tensor] | None]:
        """Latents (B, F + I, C, h, w) and, where they guide, one map (B, F + I, E, h, w) of the
        prior per layer: made from the pixels, or taken from a cache. The random numbers of a
        variational codec are the same either way."""
        if batch.cached is None:
            prior = self.prior(batch.frames) if self.prior and guided else None
            return self.codec.encode(batch.frames), prior
        parts = batch.cached
        latents = draw_latents(parts[MEAN].float(), parts.get(LOG_VARIANCE))
        names = self._prior_names() if guided else []
        return latents, [parts[name].float() for name in names] if names else None

    def _mixed(self, noise: Tensor) -> Tensor:
        """Let the F frames of each clip share part of their noise: (B, F + I, C, h, w)."""
        share, frames = self.config.shared_noise, self.latents.frames
        if share == 0:
            return noise
        return torch.cat([mixed_noise(noise[:, :frames], share), noise[:, frames:]], dim=1)

    def _as_noise(self, prediction: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The network's output with noise in its first half, whatever it predicts."""
        if self.config.prediction == "noise":
            return prediction
        velocity, variance = prediction.float().chunk(2, dim=2)
        return torch.cat([self.schedule.noise_of_velocity(noisy, velocity, level), variance], dim=2)

    def _weight(self, level: Tensor) -> Tensor | float:
        """Of each item's squared noise error, such that it is the one of what is predicted."""
        if self.config.prediction == "noise":
            return 1.0
        return 1 / at(self.schedule.signal_squared, level, level)

    def _check_labels(self, labels: Tensor | None) -> None:
        classes = self.config.transformer.classes
        if not classes:
            return
        if labels is None:
            raise ValueError(
                f"method.transformer.classes: a model of {classes} classes needs data.labels, "
                f"a CSV with the columns name,label"
            )
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"data.labels: labels are 0..{classes - 1} for method.transformer.classes="
                f"{classes}, found {sorted(set(labels.tolist()))}"
            )

    def preview_sampling(self) -> SamplingConfig:
        return EndoraSampling(sampler="unipc3", steps=12)

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        assert isinstance(settings, EndoraSampling)
        shape, windows = self.latents.batch(1)[1:], self.windows(settings, frames)
        require(
            windows.count == 1 or settings.reuse == 0 or settings.corrections == 0,
            "sampling.reuse: steps that reuse blocks cannot be corrected, as videos of more frames "
            "than a clip are; give sampling.reuse=0 or sampling.corrections=0",
        )
        schedule = self.schedule.respaced(visited_timesteps(settings, self.schedule))

        def denoise() -> Denoise:
            network = self._network(networks["denoiser"], schedule, settings)
            return self.guided_denoise(network, settings)

        pieces = extended(
            SAMPLERS[settings.sampler],
            schedule,
            denoise,
            WindowNoise(lambda: noise.draw(*shape), windows, share=self.config.shared_noise),
            settings.corrections,
            progress or (lambda done, total: None),
        )
        bf16 = settings.decode == "bf16"
        videos = torch.cat([self.codec.decode(piece, bf16=bf16) for piece in pieces], dim=1)
        return videos[:, : windows.total]

    def seams(self, settings: SamplingConfig, frames: int | None = None) -> list[int]:
        assert isinstance(settings, EndoraSampling)
        return self.windows(settings, frames).seams

    def windows(self, settings: EndoraSampling, frames: int | None = None) -> Windows:
        """How videos of so many frames are made; none is the frames of a clip."""
        length = self.latents.frames
        try:
            return Windows(length, settings.overlap, length if frames is None else frames)
        except ValueError as error:
            raise ValueError(f"sampling.{error}") from None

    def _network(
        self, denoiser: nn.Module, schedule: NoiseSchedule, settings: EndoraSampling
    ) -> Network:
        """The network of one batch, which may reuse what its blocks have added."""
        if settings.reuse == 0:
            return denoiser
        assert isinstance(denoiser, GuidedDenoiser)
        timesteps = schedule.timesteps.flip(0).tolist()  # in the order of the sampler's calls
        changes = modulation_changes(denoiser.transformer, timesteps, settings.label)
        return BlockReuse(denoiser.transformer, computed_steps(changes, settings.reuse))

    def guided_denoise(self, denoiser: Network, settings: EndoraSampling) -> Denoise:
        """The denoiser as a function of (noisy, timestep), with classifier-free guidance:
        unconditional + scale * (conditional - unconditional), on the noise channels only."""
        classes, label = self.config.transformer.classes, settings.label
        if label is None:
            require(
                settings.guidance == 1,
                "sampling.guidance: guidance needs a class; give sampling.label",
            )
            return lambda noisy, timestep: self._as_noise(
                denoiser(noisy, timestep).prediction, noisy, timestep
            )
        require(
            0 <= label < classes,
            f"sampling.label: this model knows {classes} classes, got label {label}",
        )

        def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
            labels = torch.full_like(timestep, label)
            if settings.guidance == 1:
                return self._as_noise(denoiser(noisy, timestep, labels).prediction, noisy, timestep)
            both = torch.cat([labels, torch.full_like(labels, classes)])
            prediction = denoiser(noisy.repeat(2, 1, 1, 1, 1), timestep.repeat(2), both).prediction
            conditional, unconditional = prediction.chunk(2)
            predicted, variance = conditional.chunk(2, dim=2)
            base = unconditional.chunk(2, dim=2)[0]
            guided = torch.cat([base + settings.guidance * (predicted - base), variance], dim=2)
            return self._as_noise(guided, noisy, timestep)

        return denoise


def visited_timesteps(settings: EndoraSampling, schedule: NoiseSchedule) -> list[int]:
    """The training timesteps that the sampler visits, ascending.

    `auto` is each sampler's own: integer strides for DDIM where they fit (as published), even
    steps of the log signal-to-noise ratio for the multistep solvers, fractional strides otherwise.
    """
    total, spacing = len(schedule), settings.spacing
    if spacing == "auto":
        fits = settings.steps > 0 and total % settings.steps == 0
        own = {"ddim": "integer" if fits else "fractional"} | dict.fromkeys(SOLVERS, "log_snr")
        spacing = own.get(settings.sampler, "fractional")  # type: ignore[assignment]
    if spacing == "log_snr":
        return log_snr_timesteps(schedule.log_snr, settings.steps)
    return (integer_timesteps if spacing == "integer" else fractional_timesteps)(
        total, settings.steps
    )


METHOD = Endora
