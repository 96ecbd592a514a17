"""Weights of original StyleGAN-V and MoStGAN-V checkpoints in this project's names.

A published file is one pickle of {"G", "D", "G_ema", "augment_pipe", ...} with whole modules. The
names of their parameters are those of this project, so importing is reading the sizes, checking
the constants against ours and leaving them out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbones.stylegan.motion import AcyclicEncoding, MotionSizes, TimeGaps
from models.importers.stored_tensors import StoredTensor
from models.importers.unpickling import Inert, attributes
from models.layers.resampling import low_pass_filter

StoredState = Mapping[str, StoredTensor]

GENERATORS = {"ema": "G_ema", "model": "G"}
DISCRIMINATOR = "D"
_ENCODER = "synthesis.motion_encoder.time_encoder"
_FREQUENCIES = f"{_ENCODER}.freqs"
_PHASE_SCALES = f"{_ENCODER}.phase_scales"
_GAP_FREQUENCIES = "time_encoder.time_encoder.fourier_coefs"
_STYLES = "synthesis.multimotionmap"
_FILTER = "resample_filter"
_DEEPEST = 32  # modules within modules
_TABLE_WIDTH = 256  # of the discriminator's table of time gaps


@dataclass(frozen=True)
class MotionStylesFound:
    """What MoStGAN-V adds."""

    count: int
    width: int
    resolutions: tuple[int, ...]


@dataclass(frozen=True)
class GanSizes:
    """What an original checkpoint tells about its networks."""

    resolution: int
    frames: int
    channel_base: int
    channel_max: int
    latent: int
    motion_width: int
    kernel: int
    periods: int
    shortest_period: float
    longest_period: float
    anchor_distance: int | None  # None: the file does not tell
    motion_styles: MotionStylesFound | None
    joined_at: int
    joined_divisor: int
    group: int
    hidden: int
    conditioning_width: int
    longest_video: int
    frame_differences: bool


@dataclass(frozen=True)
class OriginalGan:
    """The learned weights of an original checkpoint, its sizes and how strongly it augments."""

    generator: StoredState
    discriminator: StoredState
    sizes: GanSizes
    strength: float
    step: int


def is_gan(checkpoint: object) -> bool:
    """Whether a checkpoint has the networks of this family."""
    return isinstance(checkpoint, Mapping) and DISCRIMINATOR in checkpoint and "G_ema" in checkpoint


def read_gan(checkpoint: Mapping[str, object], which: str = "ema") -> OriginalGan:
    """The networks of an original checkpoint, the averaged generator or that of training.

    Raises ValueError in one line for a class-conditional model, and where weights are missing or
    constants are not those that this project computes.
    """
    for name in (GENERATORS[which], DISCRIMINATOR):
        if not attributes(checkpoint.get(name)):
            raise ValueError(f"the checkpoint has no network {name!r}")
    generator = dict(_tensors(checkpoint[GENERATORS[which]]))
    discriminator = dict(_tensors(checkpoint[DISCRIMINATOR]))
    if "mapping.embed.weight" in generator or _number(checkpoint[GENERATORS[which]], "c_dim"):
        raise ValueError(
            "the checkpoint is class-conditional; this project has unconditional StyleGAN-V and "
            "MoStGAN-V alone"
        )
    _check_filters(generator)
    _check_filters(discriminator)
    try:
        sizes = _sizes(generator, discriminator, checkpoint)
    except KeyError as error:
        raise ValueError(f"the checkpoint has no weight {error}") from None
    except (IndexError, ArithmeticError):  # too few axes, or an empty one
        raise ValueError("the checkpoint has weights of shapes that no such network has") from None
    _check_frequencies(generator, discriminator, sizes)
    return OriginalGan(
        generator=_learned(generator),
        discriminator=_learned(discriminator),
        sizes=sizes,
        strength=_strength(checkpoint.get("augment_pipe")),
        step=int(_number(checkpoint.get("stats"), "batch_idx") or 0),
    )


def _tensors(
    module: object, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, StoredTensor]]:
    """All tensors of a module and of those in it, by their full names."""
    if depth > _DEEPEST:
        raise ValueError("modules lie in one another without end")
    parts = attributes(module)
    for kind in ("_parameters", "_buffers"):
        for name, value in attributes(parts.get(kind)).items():
            if isinstance(value, StoredTensor):
                yield f"{prefix}{name}", value
    for name, inner in attributes(parts.get("_modules")).items():
        if inner is not None:
            yield from _tensors(inner, f"{prefix}{name}.", depth + 1)


def _learned(state: StoredState) -> StoredState:
    constants = {_FREQUENCIES, _PHASE_SCALES, _GAP_FREQUENCIES}
    return {
        name: value
        for name, value in state.items()
        if name not in constants and name.rpartition(".")[2] != _FILTER
    }


def _sizes(
    generator: StoredState, discriminator: StoredState, checkpoint: Mapping[str, object]
) -> GanSizes:
    widths = _widths(generator)
    resolution, widest = max(widths), max(widths.values())
    latent = generator["mapping.fc0.weight"].shape[1]
    code, noise, kernel = generator["synthesis.motion_encoder.conv.0.weight"].shape
    if code != noise:
        raise ValueError(f"motion noise {noise} wide and motion codes {code} wide: must be equal")
    periods = (2 * math.pi / generator[_FREQUENCIES].read().double()).flatten().tolist()
    longest_video, table_width = discriminator["time_encoder.const_embed.weight"].shape
    conditions = discriminator["mapping.embed.weight"]
    joined_at, maps, joined_width = _joining(discriminator, resolution)
    frames = _frames(conditions.shape[1], longest_video, table_width)
    if maps not in (frames, 2 * frames):
        raise ValueError(f"the discriminator joins {maps} maps of clips of {frames} frames")
    distance = _number(checkpoint["G_ema"], "motion_z_distance")
    group = _number(checkpoint[DISCRIMINATOR], "group_size")
    return GanSizes(
        resolution=resolution,
        frames=frames,
        channel_base=widths[resolution] * resolution,
        channel_max=widest,
        latent=latent,
        motion_width=code,
        kernel=kernel,
        periods=generator[f"{_ENCODER}.periods_predictor.weight"].shape[0],
        shortest_period=round(min(periods), 3),
        longest_period=round(max(periods), 3),
        anchor_distance=None if distance is None else int(distance),
        motion_styles=_motion_styles(generator),
        joined_at=joined_at,
        joined_divisor=widths[joined_at] // joined_width,
        group=int(group or 4),
        hidden=discriminator["b4.fc.weight"].shape[0],
        conditioning_width=conditions.shape[0],
        longest_video=longest_video,
        frame_differences=maps == 2 * frames,
    )


def _widths(generator: StoredState) -> dict[int, int]:
    """Channels of the generator's maps, by their resolution."""
    found = {
        int(match[1]): value.shape[0]
        for name, value in generator.items()
        if (match := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", name))
    }
    if len(found) < 2:
        raise ValueError("the generator has no blocks of the names synthesis.b4, synthesis.b8, ...")
    return found


def _joining(discriminator: StoredState, resolution: int) -> tuple[int, int, int]:
    """Where the frames of a clip are joined, how many maps, and the width of each."""
    before = resolution
    while before > 8:
        after = before // 2
        given = discriminator[f"b{before}.conv1.weight"].shape[0]
        taken = discriminator[f"b{after}.conv0.weight"].shape[1]
        if given != taken:
            return after, taken // given, given
        before = after
    raise ValueError("the discriminator nowhere joins the frames of a clip")


def _frames(conditions: int, longest_video: int, table_width: int) -> int:
    """Frames of a clip, from the width of what the discriminator knows of their times."""
    each = table_width + 2 * math.ceil(math.log2(longest_video))
    if conditions % each or table_width != _TABLE_WIDTH:
        raise ValueError(
            f"the discriminator is told {conditions} numbers besides the clip, no multiple of the "
            f"{each} of a time gap: a class-conditional or unknown model"
        )
    return conditions // each + 1


def _motion_styles(generator: StoredState) -> MotionStylesFound | None:
    if f"{_STYLES}.0.weight" not in generator:
        return None
    layers = {
        int(match[1]): value.shape[1]
        for name, value in generator.items()
        if (match := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.hypernet\.conv0\.weight", name))
    }
    if len(set(layers.values())) != 1:
        raise ValueError("the generator has motion styles, but no layers that follow them")
    width = next(iter(layers.values()))
    values = generator[f"{_STYLES}.1.weight"].shape[0]
    return MotionStylesFound(values // width, width, tuple(sorted(layers)))


def _check_filters(state: StoredState) -> None:
    ours = low_pass_filter()
    for name, value in state.items():
        if name.rpartition(".")[2] == _FILTER and not _near(value.read(), ours):
            raise ValueError(f"{name} is not the low-pass filter that this project uses")


def _check_frequencies(generator: StoredState, discriminator: StoredState, sizes: GanSizes) -> None:
    motion = MotionSizes(
        code_width=1,
        periods=sizes.periods,
        shortest_period=sizes.shortest_period,
        longest_period=sizes.longest_period,
    )
    encoding, gaps = AcyclicEncoding(motion), TimeGaps(sizes.longest_video, 1)
    ours = (
        (generator, _FREQUENCIES, encoding.frequencies),
        (generator, _PHASE_SCALES, encoding.phase_scales),
        (discriminator, _GAP_FREQUENCIES, gaps.frequencies),
    )
    for state, name, expected in ours:
        if name in state and not _near(state[name].read().flatten(), expected):
            raise ValueError(f"{name} is not the constant that this project computes")


def _near(value: Tensor, expected: Tensor) -> bool:
    same = value.shape == expected.shape
    return same and torch.allclose(value.float(), expected.float(), rtol=1e-3, atol=1e-6)


def _strength(augmentation: object) -> float:
    """How strongly real and generated clips were augmented when the checkpoint was written."""
    value = attributes(attributes(augmentation).get("_buffers")).get("p")
    return float(value.read()) if isinstance(value, StoredTensor) and not value.shape else 0.0


def _number(value: object, key: str) -> float | None:
    """The first number called `key` in settings or attributes, however they lie in one another."""
    waiting, seen = [value], set[int]()
    while waiting:
        parts = attributes(waiting.pop(0))
        if key in parts:
            found = _plain(parts[key])
            if isinstance(found, int | float) and math.isfinite(found):
                return found
        for inner in parts.values():
            if isinstance(inner, Mapping | Inert) and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)
    return None


def _plain(value: object) -> object:
    """A setting out of the wrapping that OmegaConf gives it."""
    return attributes(value).get("_val") if isinstance(value, Inert) else value
