"""A run of the toy method to sample from; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from configs.load import to_plain
from configs.schema import ClipConfig, DataConfig, RunConfig
from models.methods.toy import Toy, ToyConfig
from tools.training.weights import Weights, write_weights

WriteToy = Callable[..., Path]


@pytest.fixture(scope="session")
def write_toy() -> WriteToy:
    """write_toy(path, step=7, seed=0): write weights that claim to be of a training step."""
    return _write_toy


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Exported weights of the toy method, 4 frames of 16 x 16."""
    return _write_toy(tmp_path / "run" / "toy.safetensors")


def _write_toy(path: Path, step: int = 7, seed: int = 0) -> Path:
    config = RunConfig(
        method_name="toy",
        output="runs/toy",
        clip=ClipConfig(frames=4, size=16),
        data=DataConfig(folder="data/none"),
        method=ToyConfig(),
    )
    torch.manual_seed(seed)
    networks = Toy(ToyConfig(), config.clip.shape).build_networks()
    states = {name: network.state_dict() for name, network in networks.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(path, Weights(to_plain(config), "toy", step, states))
    return path
