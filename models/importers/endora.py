"""Weights of the original Endora and Latte checkpoints in this project's names.

A published file is a pickle of {"ema": state} (Endora) or {"ema", "model", ...} (Latte) whose
block K is spatial when K is even and temporal when K is odd if the model is interlaced, and
spatial in the first half otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbones.video_transformer import block_order
from models.layers.embeddings import frame_table, grid_table

State = Mapping[str, Tensor]

_LAYERS = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.project",
    "mlp.fc1": "mlp.inner",
    "mlp.fc2": "mlp.outer",
    "adaLN_modulation.1": "modulation",
}
_OUTSIDE_BLOCKS = {
    "x_embedder.proj": "patch_embedding",
    "t_embedder.mlp.0": "timestep_embedding.inner",
    "t_embedder.mlp.2": "timestep_embedding.outer",
    "y_embedder.embedding_table": "label_embedding.table",
    "final_layer.linear": "final.linear",
    "final_layer.adaLN_modulation.1": "final.modulation",
}
_UNUSED = ("linear.", "linear_2.")  # layers of the published Endora that no output depends on
_TABLES = ("pos_embed", "temp_embed")  # fixed; checked against ours, then dropped


@dataclass(frozen=True)
class OriginalSizes:
    """What the shapes of an original checkpoint tell about its model."""

    depth: int
    width: int
    patch: int
    channels: int  # latent channels
    frames: int
    rows: int  # of tokens; frames are square
    classes: int
    prior_width: int  # of the prior that guided it; 0 where it has no projection
    projection_width: int
    projection_stride: int


def is_transformer(state: object) -> bool:
    """Whether this is the state dict of an original Endora or Latte model."""
    return isinstance(state, Mapping) and "x_embedder.proj.weight" in state


def original_state(checkpoint: Mapping[str, object], which: str = "ema") -> State:
    """The state dict inside an original checkpoint. Raises ValueError when there is none."""
    state = checkpoint.get(which, checkpoint)
    if not isinstance(state, Mapping) or not is_transformer(state):
        raise ValueError(
            f"not an original Endora or Latte checkpoint: no x_embedder.proj.weight under "
            f"{which!r}; top-level keys: {', '.join(map(str, list(checkpoint)[:6]))}"
        )
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def original_sizes(state: State) -> OriginalSizes:
    """Read the sizes of the model from the shapes of its weights."""
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    blocks = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    labels = state.get("y_embedder.embedding_table.weight")
    projection = state.get("cov.weight")
    return OriginalSizes(
        depth=len(blocks),
        width=width,
        patch=patch,
        channels=channels,
        frames=state["temp_embed"].shape[1],
        rows=round(state["pos_embed"].shape[1] ** 0.5),
        classes=len(labels) - 1 if labels is not None else 0,
        prior_width=projection.shape[1] if projection is not None else 0,
        projection_width=projection.shape[0] if projection is not None else 0,
        projection_stride=projection.shape[2] if projection is not None else 0,
    )


def import_original(state: State, *, interlaced: bool = True) -> dict[str, Tensor]:
    """The weights of our `GuidedDenoiser` from those of an original model.

    Position tables are checked against ours and dropped, for they are computed; the projection
    of the prior becomes the first of the guidance head.
    Raises ValueError for an unknown weight or a table of another form.
    """
    sizes = original_sizes(state)
    _check_tables(state, sizes)
    places = block_order(sizes.depth // 2, interlaced)
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(_UNUSED) or key in _TABLES:
            continue
        result[_renamed(key, places)] = value.detach().clone()
    return result


def imported_name(key: str, *, depth: int, interlaced: bool = True) -> str:
    """Our name of one learned weight of an original model with `depth` blocks."""
    return _renamed(key, block_order(depth // 2, interlaced))


def _renamed(key: str, places: list[tuple[str, int]]) -> str:
    if key == "cov.weight":
        return "guide.projections.0.weight"
    name, _, kind = key.rpartition(".")
    if name in _OUTSIDE_BLOCKS:
        return f"transformer.{_OUTSIDE_BLOCKS[name]}.{kind}"
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match and match[2] in _LAYERS:
        axis, pair = places[int(match[1])]
        return f"transformer.{axis}.{pair}.{_LAYERS[match[2]]}.{kind}"
    if key == "y_embedder.embedding_table.weight":
        return "transformer.label_embedding.table.weight"
    raise ValueError(f"unknown weight {key!r} in the original checkpoint")


def _check_tables(state: State, sizes: OriginalSizes) -> None:
    ours = {
        "pos_embed": grid_table(sizes.width, sizes.rows, sizes.rows),
        "temp_embed": frame_table(sizes.width, sizes.frames),
    }
    for name, table in ours.items():
        if not torch.allclose(state[name][0].float(), table, atol=1e-4):
            raise ValueError(f"{name} is not the fixed sin-cos table that this project computes")
