"""Weights of original LVDM checkpoints, of both stages, in this project's names.

A published file is a training checkpoint with a "state_dict": of stage 1 the autoencoder and what
belongs to its loss; of stage 2 the denoiser, its average, the autoencoder of stage 1 and the
noise schedule. Names are those of this project; weights that are stored twice are compared and
taken once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.importers.stored_tensors import StoredTensor

StoredState = Mapping[str, StoredTensor]

_DENOISER = "model.diffusion_model."
_AVERAGE = "model_ema."
_AVERAGED = "diffusion_model."  # before a name whose dots the average leaves out
_FIRST_STAGE = "first_stage_model."
_CONDITION = "cond_stage_model."
_LOSS = "loss."
_DISCRIMINATOR = "loss.discriminator."
_PERCEPTUAL = "loss.perceptual_loss."
_AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_FIRST_WEIGHT = "encoder.conv_first.conv.weight"
# The schedule, which this project computes, and constants of the loss.
_SCHEDULE = {
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
}
_SCALE = "scale_factor"


@dataclass(frozen=True)
class AutoencoderSizes:
    """What the shapes of stage 1 tell. The shrinking of time is not among it."""

    width: int
    stages: int
    channels: int


@dataclass(frozen=True)
class PatchSizes:
    """What the shapes of stage 1's discriminator tell."""

    width: int
    layers: int


@dataclass(frozen=True)
class DenoiserSizes:
    """What the shapes of stage 2 tell."""

    channels: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_at: tuple[int, ...]
    heads: int
    reach: int  # latent frames of a clip; relative positions tell so many apart
    masked: bool  # one more input channel: predicts or interpolates
    levels: int  # rows of the embedding of a second noise level; 0: none


@dataclass(frozen=True)
class Autoencoder:
    """Stage 1. What only its loss needs is absent from the copy within a file of stage 2."""

    weights: StoredState
    sizes: AutoencoderSizes
    discriminator: StoredState | None
    patches: PatchSizes | None
    perceptual: StoredState  # LPIPS with its VGG-16, in the names of the package lpips


@dataclass(frozen=True)
class Denoiser:
    """Stage 2 and the stage 1 it was trained on, if the file has it."""

    weights: StoredState
    sizes: DenoiserSizes
    betas: Tensor | None  # (1000,) float64, the noise schedule
    scale: float | None  # of the latents, where the training measured it
    autoencoder: Autoencoder | None


def lvdm_state(checkpoint: object) -> StoredState | None:
    """The state dict of an original checkpoint of either stage; None for other files."""
    state = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        return None
    return {str(key): value for key, value in state.items() if isinstance(value, StoredTensor)}


def is_denoiser(state: StoredState) -> bool:
    """Whether a state dict is of stage 2, not of stage 1."""
    return any(name.startswith(_DENOISER) for name in state)


def read_autoencoder(state: StoredState) -> Autoencoder:
    """Stage 1 from its state dict.

    Raises ValueError in one line for missing or unknown weights and for unequal copies.
    """
    if _FIRST_WEIGHT not in state:
        raise ValueError(
            f"neither stage of LVDM: the state dict has no {_FIRST_WEIGHT} and no {_DENOISER}*; "
            f"it begins with {', '.join(list(state)[:3]) or 'nothing'}"
        )
    weights = _once({n: v for n, v in state.items() if n.startswith(_AUTOENCODER)})
    unknown = [n for n in state if not n.startswith((*_AUTOENCODER, _LOSS))]
    _refuse_unknown(unknown)
    discriminator = _below(_DISCRIMINATOR, state)
    try:
        return Autoencoder(
            weights=weights,
            sizes=_autoencoder_sizes(weights),
            discriminator=discriminator or None,
            patches=_patch_sizes(discriminator) if discriminator else None,
            perceptual=_below(_PERCEPTUAL, state),
        )
    except KeyError as error:
        raise ValueError(f"the state dict has no weight {error}") from None


def read_denoiser(state: StoredState, which: str = "ema") -> Denoiser:
    """Stage 2 from its state dict: the averaged weights, or those of training.

    Raises ValueError in one line for missing or unknown weights, for conditional models and for
    unequal copies.
    """
    raw, averages = _below(_DENOISER, state), _below(_AVERAGE, state)
    if any(name.startswith(_CONDITION) for name in state):
        raise ValueError("the checkpoint is conditional (text or class); this project's is not")
    known = (_DENOISER, _AVERAGE, _FIRST_STAGE)
    _refuse_unknown(
        n for n in state if not n.startswith(known) and n not in {*_SCHEDULE, "betas", _SCALE}
    )
    inner = _below(_FIRST_STAGE, state)
    try:
        sizes = _denoiser_sizes(raw)
        return Denoiser(
            weights=_averaged(raw, averages) if which == "ema" else raw,
            sizes=sizes,
            betas=state["betas"].read().double() if "betas" in state else None,
            scale=float(state[_SCALE].read()) if _SCALE in state else None,
            autoencoder=read_autoencoder(inner) if inner else None,
        )
    except KeyError as error:
        raise ValueError(f"the state dict has no weight {error}") from None


def _below(prefix: str, state: StoredState) -> StoredState:
    """What begins with a prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def _once(weights: StoredState) -> StoredState:
    """The weights without the second name that a convolution's kernel has."""
    once = {}
    for name, value in weights.items():
        stem, _, last = name.rpartition(".")
        twin = weights.get(f"{stem}.conv.{last}")
        if twin is None:
            once[name] = value
        elif not value.shows_the_same(twin) and not torch.equal(value.read(), twin.read()):
            raise ValueError(f"{name} and {stem}.conv.{last} are to be equal and are not")
    return once


def _averaged(raw: StoredState, averages: StoredState) -> StoredState:
    """The averages by the names of what they average."""
    short = {name: (_AVERAGED + name).replace(".", "") for name in raw}
    missing = [name for name in raw if short[name] not in averages]
    if missing:
        raise ValueError(
            f"the checkpoint has no average of {missing[0]} ({len(missing)} of {len(raw)} are "
            f"missing); --which model takes the weights of training"
        )
    _refuse_unknown(
        f"{_AVERAGE}{name}"
        for name in averages.keys() - set(short.values()) - {"decay", "num_updates"}
    )
    return {name: averages[short[name]] for name in raw}


def _autoencoder_sizes(weights: StoredState) -> AutoencoderSizes:
    stages = {
        int(match[1])
        for name in weights
        if (match := re.match(r"encoder\.conv_blocks\.(\d+)\.", name))
    }
    return AutoencoderSizes(
        width=weights[_FIRST_WEIGHT].shape[0],
        stages=len(stages),
        channels=weights["post_quant_conv.conv.weight"].shape[0],
    )


def _patch_sizes(weights: StoredState) -> PatchSizes:
    kernels = [name for name, value in weights.items() if len(value.shape) == 4]
    return PatchSizes(width=weights["main.0.weight"].shape[0], layers=len(kernels) - 2)


def _denoiser_sizes(weights: StoredState) -> DenoiserSizes:
    width = weights["time_embed.0.weight"].shape[1]
    channels = weights["out.2.weight"].shape[0]
    levels: list[list[int]] = [[]]  # widths of the residual blocks of every level
    attention = set()
    number = 1
    while any(name.startswith(f"input_blocks.{number}.") for name in weights):
        if f"input_blocks.{number}.0.op.weight" in weights:
            levels.append([])
        else:
            kernel = weights[f"input_blocks.{number}.0.out_layers.3.weight"]
            levels[-1].append(kernel.shape[0])
            if f"input_blocks.{number}.1.qkv_t.weight" in weights:
                attention.add(2 ** (len(levels) - 1))
        number += 1
    blocks = {len(level) for level in levels}
    if len(blocks) != 1 or any(len(set(level)) != 1 for level in levels):
        raise ValueError("the denoiser's levels have unequal numbers or widths of blocks")
    table = weights["middle_block.1.relative_position_k.embeddings_table"].shape
    rows = weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else 0
    return DenoiserSizes(
        channels=channels,
        width=width,
        multipliers=tuple(level[0] // width for level in levels),
        blocks=blocks.pop(),
        attention_at=tuple(sorted(attention, reverse=True)),
        heads=levels[-1][0] // table[1],
        reach=table[0] // 2,
        masked=weights["input_blocks.0.0.weight"].shape[1] == channels + 1,
        levels=rows,
    )


def without_single_axes(weight: Tensor) -> Tensor:
    """A kernel over (1, height, width) or over one place, as ours: without the axis of size 1.

    (O, I, 1, h, w) -> (O, I, h, w); (O, I, 1) -> (O, I); others stay.
    """
    return weight.squeeze(2) if weight.ndim in (3, 5) and weight.shape[2] == 1 else weight


def _refuse_unknown(names: Iterable[str]) -> None:
    found = sorted(names)
    if found:
        raise ValueError(f"the checkpoint has unknown weights ({len(found)}), such as {found[0]}")
