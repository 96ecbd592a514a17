"""Batches on their way to the device: in order, as floats, errors in their place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tools.training.feeding import Feed
from tools.training.runtime import Runtime
from tools.training.stopping import StopRequest

CPU = torch.device("cpu")


class Numbers:
    """Batch k has pixels of the value k; the one of number `broken` cannot be read."""

    def __init__(self, broken: int = -1) -> None:
        self.given = 0
        self.broken = broken

    def next_stored(self) -> dict[str, Tensor]:
        if self.given == self.broken:
            raise ValueError("a.mp4: damaged")
        self.given += 1
        videos = torch.full((2, 3, 3, 4, 4), self.given - 1, dtype=torch.uint8)
        return {"videos": videos, "labels": torch.tensor([self.given - 1, 7])}


def feed(loader: Numbers, device: torch.device = CPU, rounds: int = 2) -> Feed:
    return Feed(loader, rounds, device, StopRequest(Runtime(device)))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_steps_come_in_order_prepared_or_not(device: str) -> None:
    source = feed(Numbers(), torch.device(device))
    for step in range(4):
        rounds = source.take()
        if step % 2:
            source.prepare()
            source.prepare()  # once is enough
        for k, batch in enumerate(rounds):
            assert batch.videos.device.type == device
            assert batch.videos.dtype == torch.float32
            expected = torch.full_like(batch.videos, (2 * step + k) / 127.5 - 1)
            torch.testing.assert_close(batch.videos, expected)
            assert batch.labels is not None
            assert batch.labels.tolist() == [2 * step + k, 7]


def test_a_cpu_prepares_nothing() -> None:
    loader = Numbers()
    source = feed(loader)
    source.take()
    source.prepare()
    assert loader.given == 2


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_an_error_comes_with_the_step_that_lacks_its_data(device: str) -> None:
    source = feed(Numbers(broken=2), torch.device(device))
    source.take()
    source.prepare()
    with pytest.raises(ValueError, match=r"a\.mp4"):
        source.take()
