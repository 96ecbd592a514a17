"""Networks with weights that follow from their names, and fixed inputs, for known numbers."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

Fill = Callable[..., nn.Module]
Numbers = Callable[..., Tensor]


@pytest.fixture
def fill() -> Fill:
    """`fill(module, prefix)`: every stored tensor drawn from a generator seeded with its name."""

    def fill_by_name(module: nn.Module, prefix: str = "") -> nn.Module:
        for key, tensor in module.state_dict().items():
            name = prefix + key
            draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tensor.shape)
            rate = 0.01 if "mapping.fc" in name or "motion_encoder.conv" in name else 1.0
            if name.endswith("affine.bias"):
                draw = 1 + 0.1 * draw
            elif name.endswith("bias"):
                draw = 0.1 * draw / rate
            elif name.endswith("w_avg"):
                draw = 0.1 * draw
            else:
                draw = draw / rate
            tensor.copy_(torch.from_numpy(draw.astype(np.float32)))
        return module.eval()

    return fill_by_name


@pytest.fixture
def normal() -> Numbers:
    """`normal(seed, *shape)`: standard normal float32, the same on every machine."""

    def draw(seed: int, *shape: int) -> Tensor:
        values = np.random.RandomState(seed).standard_normal(shape)
        return torch.from_numpy(values.astype(np.float32))

    return draw


@pytest.fixture
def times() -> Tensor:
    """Times of four clips of four frames: consecutive, fractional, with gaps, at an anchor."""
    rows = [[0, 1, 2, 3], [0.5, 2.5, 6.5, 8.5], [3, 5, 6, 19], [7, 8, 9, 16]]
    return torch.tensor(rows, dtype=torch.float32)
