"""Weights without the rest of a checkpoint: exported, read back and put into networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.load import from_plain
from configs.schema import RunConfig
from models.interface import Method
from models.registry import build_method, method_config
from tools.training.checkpoints import FOLDER, checkpoint_files, read_checkpoint
from tools.training.files import whole_file
from tools.training.state import load_networks

FORMAT = "endora-weights-1"
RAW = -1  # in place of the index of an average: the weights that training itself moves


@dataclass(frozen=True)
class Weights:
    """Networks by name, each by parameter name, and which run they are from."""

    config: dict[str, Any]  # the complete settings, plain
    method_name: str
    step: int
    networks: dict[str, dict[str, Tensor]]
    ema_decay: float | None = None  # None: the raw weights

    def run_config(self, source: Path | None = None) -> RunConfig:
        """The checked settings. Raises ValueError when they are not of a run of this project."""
        return from_plain(RunConfig(method=method_config(self.method_name)()), self.config, source)


def read_weights(path: Path, ema: int = 0) -> Weights:
    """Weights from a run folder (its newest checkpoint), a checkpoint or exported weights.

    `ema` chooses one of a checkpoint's averages, or RAW; exported weights are what they are.
    Raises FileNotFoundError or ValueError in one line that says what the file is not.
    """
    if path.is_dir():
        path = _newest(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such run folder, checkpoint or weights file")
    if path.suffix == ".safetensors":
        return _read_exported(path, ema)
    return _from_checkpoint(path, ema)


def write_weights(path: Path, weights: Weights, dtype: torch.dtype = torch.float32) -> None:
    """Write weights as safetensors: keys `network/parameter`, the rest as metadata.

    `dtype` is that of matrices and kernels; below float32 vectors stay as they are.
    """
    from safetensors.torch import save

    tensors = {
        f"{network}/{name}": _stored(tensor, dtype)
        for network, parameters in weights.networks.items()
        for name, tensor in parameters.items()
    }
    metadata = {
        "format": FORMAT,
        "method_name": weights.method_name,
        "step": str(weights.step),
        "ema_decay": json.dumps(weights.ema_decay),
        "config": json.dumps(weights.config),
    }
    with whole_file(path) as file:
        file.write(save(tensors, metadata))


def load_for_sampling(
    path: Path, ema: int = 0, device: torch.device | str = "cpu"
) -> tuple[Method, dict[str, nn.Module], RunConfig]:
    """The method of a checkpoint with its networks, in evaluation mode on a device.

    Raises FileNotFoundError or ValueError in one line; see `read_weights`.
    """
    return networks_for_sampling(read_weights(path, ema), path, device)


def networks_for_sampling(
    weights: Weights, path: Path, device: torch.device | str = "cpu"
) -> tuple[Method, dict[str, nn.Module], RunConfig]:
    """As `load_for_sampling`, of weights that were read before from `path`."""
    config = weights.run_config(path)
    method = build_method(config, training=False).to(torch.device(device))
    networks = method.build_networks()
    # The raw weights of a checkpoint are of all networks that trained, such as a discriminator.
    wanted = {name: each for name, each in weights.networks.items() if name in networks}
    try:
        load_networks(networks, wanted)
    except ValueError as error:
        raise ValueError(f"{path} does not fit its own settings: {error}") from None
    for network in networks.values():
        network.to(device).eval().requires_grad_(False)
    return method, networks, config


def check_same_method(weights: Weights, config: RunConfig, path: Path) -> None:
    """Raise ValueError unless the weights are of the method that a run trains."""
    if weights.method_name != config.method_name:
        raise ValueError(
            f"{path} holds weights of {weights.method_name!r}, this run trains "
            f"{config.method_name!r}; choose other train.initial_weights"
        )


def _newest(folder: Path) -> Path:
    inside = folder / FOLDER
    files = checkpoint_files(inside if inside.is_dir() else folder)
    if not files:
        raise FileNotFoundError(
            f"{folder}: no checkpoint in this folder; name a run folder, a checkpoint (.pt) or "
            f"exported weights (.safetensors)"
        )
    return files[max(files)]


def _from_checkpoint(path: Path, ema: int) -> Weights:
    saved = read_checkpoint(path)
    decays = saved["config"]["train"]["ema_decays"]
    if ema != RAW and not 0 <= ema < len(saved["ema"]):
        raise ValueError(
            f"{path}: there is no average number {ema}; the run has the decays {decays} "
            f"(counted from 0), {RAW} takes the raw weights"
        )
    return Weights(
        config=saved["config"],
        method_name=saved["method_name"],
        step=saved["step"],
        networks=saved["networks"] if ema == RAW else saved["ema"][ema],
        ema_decay=None if ema == RAW else decays[ema],
    )


def _read_exported(path: Path, ema: int) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged, or no safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: a safetensors file, but not exported by this project "
            f"(python -m tools.export or tools.import_checkpoint)"
        )
    if ema > 0:
        raise ValueError(f"{path}: exported weights hold one set, so ema={ema} does not exist")
    return _from_metadata(path, metadata, tensors)


def _from_metadata(path: Path, metadata: Mapping[str, str], tensors: dict[str, Tensor]) -> Weights:
    networks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        network, _, name = key.partition("/")
        networks.setdefault(network, {})[name] = tensor
    try:
        config = json.loads(metadata["config"])
        decay = json.loads(metadata["ema_decay"])
        step = int(metadata["step"])
        if not isinstance(config, dict) or not isinstance(decay, float | int | None):
            raise ValueError("wrong types")
        return Weights(config, metadata["method_name"], step, networks, decay)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: its metadata are incomplete or damaged: {error}") from None


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Vectors take no room, and some cannot bear rounding: means with mean squares, for one.
    rounded = tensor.is_floating_point() and (tensor.ndim > 1 or dtype == torch.float32)
    wanted = dtype if rounded else tensor.dtype
    return tensor.detach().to("cpu", wanted).clone(memory_format=torch.contiguous_format)
