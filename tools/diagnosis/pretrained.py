"""Begin from published weights: video transformers (SVT, Endo-FM) and image ones (DINO, timm).

Names of the published video transformers, and ours: what an image ViT has keeps its name, below
`spatial`. Of block K `temporal_norm1`, `temporal_attn.qkv`, `temporal_attn.proj` and `temporal_fc`
are `temporal.K.norm`, `.qkv`, `.proj` and `.fc`. `time_embed` stays. Heads are dropped.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from models.importers.containers import read_pickle
from models.importers.stored_tensors import StoredTensor
from models.priors.weights import load_state
from tools.diagnosis.classifier import CLASSIFIER, SIZES, VideoClassifier

State = dict[str, Tensor]

CONTAINERS = ("teacher", "state_dict", "model", "model_state")  # where checkpoints keep a network
WRAPPERS = ("module.", "backbone.")
HEADS = ("head.", "head_dist.", "fc.", "fc_norm.")
TEMPORAL = re.compile(r"blocks\.(\d+)\.temporal_(?:attn\.)?(norm1|qkv|proj|fc)\.(weight|bias)")
PLACES, TIMES = "spatial.pos_embed", "time_embed"  # tables that depend on the size of a clip


@dataclass(frozen=True)
class Imported:
    """What was loaded: numbers of tensors of both parts, and which file it was.

    For a transformer of 12 blocks 150 spatial ones, and 97 temporal ones or none.
    """

    spatial: int
    temporal: int
    checksum: str  # SHA-256 of the file


def load_pretrained(classifier: VideoClassifier, path: Path) -> Imported:
    """Put published weights into a classifier: all of its tensors but those of its head.

    Weights of images leave the temporal part as it is. Tables of positions and times of another
    length are interpolated, bicubically and linearly.
    Raises:  FileNotFoundError, ValueError in one line where the file is no checkpoint or does not
             fit, with the first tensor that differs
    """
    state = our_names(backbone(read_state(path), path))
    own = {k: v for k, v in classifier.state_dict().items() if not k.startswith(f"{CLASSIFIER}.")}
    spatial = [name for name in own if name.startswith("spatial.")]
    temporal = [name for name in own if name not in spatial]
    if not any(name in state for name in temporal):
        temporal = []
    own = {name: own[name] for name in (*spatial, *temporal)}
    for table, resize in ((PLACES, resized_places), (TIMES, resized_times)):
        if table in state and table in own and _resizable(table, state[table], own[table]):
            state[table] = resize(state[table], own[table].shape[1])
    _require_fit(state, own, path)
    for name, tensor in own.items():
        tensor.copy_(state[name])
    return Imported(len(spatial), len(temporal), checksum(path))


def read_state(path: Path) -> Mapping[str, object]:
    """The dictionary in a file of weights: .safetensors, or a pickle, of which nothing is run.

    Raises:  FileNotFoundError, ValueError where it is something else
    """
    if not path.is_file():
        raise FileNotFoundError(f"network.weights: {path}: no such file")
    if path.suffix == ".safetensors":
        return load_state(path)
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: a {type(content).__name__}, not a checkpoint with named weights")
    return content


def backbone(content: Mapping[str, object], path: Path) -> State:
    """The transformer in a checkpoint, in the published names, without wrappers and heads."""
    for key in CONTAINERS:
        inside = content.get(key)
        if isinstance(inside, Mapping):
            content = inside
            break
    for wrapper in WRAPPERS:
        if any(str(key).startswith(wrapper) for key in content):
            content = {
                str(key).removeprefix(wrapper): value
                for key, value in content.items()
                if str(key).startswith(wrapper)
            }
    state: State = {}
    for key, value in content.items():
        if str(key).startswith(HEADS):
            continue
        if isinstance(value, StoredTensor):
            try:
                value = value.read()
            except ValueError as error:
                raise ValueError(f"{path}: {key}: {error}") from None
        if isinstance(value, Tensor):
            state[str(key)] = value
    patches = state.get("patch_embed.proj.weight")
    if patches is None or patches.ndim != 4:
        raise ValueError(
            f"{path}: no weights of a vision transformer (patch_embed.proj.weight) in it; it has "
            f"{', '.join(map(str, list(content)[:4])) or 'nothing'}"
        )
    return state


def our_names(state: Mapping[str, Tensor]) -> State:
    """Published names -> those of `VideoClassifier`."""
    return {_our_name(name): tensor for name, tensor in state.items()}


def _our_name(name: str) -> str:
    if name == TIMES:
        return TIMES
    if match := TEMPORAL.fullmatch(name):
        block, layer, rest = match.groups()
        return f"temporal.{block}.{layer.removesuffix('1')}.{rest}"
    return f"spatial.{name}"


def resized_places(table: Tensor, length: int) -> Tensor:
    """A table (1, 1 + n^2, D) of a class token and square positions -> (1, length, D)."""
    token, places = table[:, :1], table[:, 1:]
    old, new = round(places.shape[1] ** 0.5), round((length - 1) ** 0.5)
    if old == new:
        return table
    square = places.unflatten(1, (old, old)).permute(0, 3, 1, 2).float()
    square = F.interpolate(square, size=(new, new), mode="bicubic", antialias=new < old)
    return F.pad(square.flatten(2).transpose(1, 2), (0, 0, 1, 0)) + F.pad(
        token.float(), (0, 0, 0, new * new)
    )


def resized_times(table: Tensor, length: int) -> Tensor:
    """A table (1, T, D) of times -> (1, length, D)."""
    if table.shape[1] == length:
        return table
    along = table.float().transpose(1, 2)
    return F.interpolate(along, size=length, mode="linear").transpose(1, 2)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def _resizable(name: str, table: Tensor, own: Tensor) -> bool:
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != own.shape[2]:
        return False
    places = table.shape[1] - 1
    return name != PLACES or (places > 0 and math.isqrt(places) ** 2 == places)


def _require_fit(state: State, own: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that do not fill a network exactly, or are no numbers."""
    problem = _first_difference(state, own)
    if problem is not None:
        raise ValueError(f"{path}: {problem}; {_fitting(state)}")
    broken = [name for name in own if not state[name].isfinite().all()]
    if broken:
        raise ValueError(f"{path}: {broken[0]} has numbers that are not finite")


def _first_difference(state: State, own: Mapping[str, Tensor]) -> str | None:
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    if other:
        name = other[0]
        return f"{name} is {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
    missing = [name for name in own if name not in state]
    if missing:
        return f"{len(missing)} of {len(own)} tensors are missing, the first is {missing[0]}"
    unknown = [name for name in state if name not in own]
    if unknown:
        return f"{len(unknown)} tensors have no place in the network, the first is {unknown[0]}"
    return None


def _fitting(state: State) -> str:
    """What the shapes of weights say about their transformer, and which size fits them."""
    width, _, patch = state["spatial.patch_embed.proj.weight"].shape[:3]
    depth = len({name.split(".")[2] for name in state if name.startswith("spatial.blocks.")})
    sizes = [
        name
        for name, size in SIZES.items()
        if (size.width, size.depth, size.patch) == (width, depth, patch)
    ]
    advice = f"network.size={sizes[0]} would fit" if sizes else "no network.size fits"
    return f"the weights are of width {width}, {depth} blocks, patches of {patch}: {advice}"
