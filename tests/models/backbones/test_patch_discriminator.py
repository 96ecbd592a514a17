"""The patch discriminator: golden values, sizes, and its batch norm in several processes."""

from __future__ import annotations

import copy
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbones.patch_discriminator import BatchNorm, PatchDiscriminator


@torch.no_grad()
def test_outputs_are_those_of_the_original() -> None:
    network = PatchDiscriminator().eval()
    for name, parameter in network.named_parameters():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(
            tuple(parameter.shape)
        )
        if parameter.ndim > 1:
            values /= np.sqrt(parameter.numel() / parameter.shape[0])
        else:
            values = (1 if name.endswith("weight") else 0) + 0.1 * values
        parameter.copy_(torch.from_numpy(values))
    images = torch.from_numpy(np.random.RandomState(3).uniform(-1, 1, (2, 3, 128, 128))).float()
    logits = network(images)
    assert logits.shape == (2, 1, 14, 14)
    measured = [logits.mean(), logits.std(unbiased=False), logits.abs().max()]
    assert [float(v) for v in measured] == pytest.approx([-0.230480, 0.118231, 0.539892], rel=1e-3)
    assert float(logits[0, 0, 0, 0]) == pytest.approx(-0.221631, rel=1e-3)
    assert float(logits[1, 0, 13, 13]) == pytest.approx(-0.259865, rel=1e-3)


def test_parameters_are_those_of_published_checkpoints() -> None:
    with torch.device("meta"):
        network = PatchDiscriminator()
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_765_633
    layers = {name.split(".")[1] for name in network.state_dict()}
    assert layers == {"0", "2", "3", "5", "6", "8", "9", "11"}
    assert "main.2.bias" not in network.state_dict()
    assert "main.9.running_var" in network.state_dict()


def test_logits_at_256_pixels_are_30_by_30() -> None:
    with torch.device("meta"):
        assert PatchDiscriminator()(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_new_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator().requires_grad_(False)
    kernels = torch.cat([m.weight.flatten() for m in network.modules() if type(m) is nn.Conv2d])
    scales = torch.cat([m.weight for m in network.modules() if isinstance(m, BatchNorm)])
    assert float(kernels.std()) == pytest.approx(0.02, rel=0.02)
    assert float(scales.mean()) == pytest.approx(1, abs=0.005)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.1)


def test_in_one_process_the_batch_norm_is_torchs() -> None:
    torch.manual_seed(0)
    ours, plain = BatchNorm(5), nn.BatchNorm2d(5)
    plain.load_state_dict(ours.state_dict())
    maps = torch.randn(4, 5, 6, 6)
    torch.testing.assert_close(ours(maps), plain(maps))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(maps), plain.eval()(maps))


def test_two_processes_normalise_as_one_with_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads take the place of processes; they meet in every exchange."""
    meeting, sent = threading.Barrier(2, timeout=20), [torch.zeros(0)] * 2
    number = threading.local()

    def averaged(values: Tensor) -> Tensor:
        sent[number.value] = values.clone()
        meeting.wait()
        mean = (sent[0] + sent[1]) / 2
        meeting.wait()
        return mean

    torch.manual_seed(0)
    maps, wanted = torch.randn(6, 5, 4, 4) * 2 + 3, torch.randn(6, 5, 4, 4)
    one = BatchNorm(5)
    parts = [copy.deepcopy(one), copy.deepcopy(one)]
    given = maps.clone().requires_grad_()
    outputs = one(given)
    (outputs * wanted).mean().backward()

    monkeypatch.setattr("models.backbones.patch_discriminator._processes", lambda: 2)
    monkeypatch.setattr("models.backbones.patch_discriminator._averaged", averaged)
    inputs = [half.clone().requires_grad_() for half in maps.split(3)]

    def work(rank: int) -> Tensor:
        number.value = rank
        output = parts[rank](inputs[rank])
        (output * wanted.split(3)[rank]).mean().backward()
        return output.detach()

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(work, range(2)))
    torch.testing.assert_close(torch.cat(halves), outputs.detach(), rtol=1e-4, atol=1e-5)
    assert given.grad is not None
    gradients = torch.cat([half.grad for half in inputs if half.grad is not None]) / 2
    torch.testing.assert_close(gradients, given.grad, rtol=1e-3, atol=1e-7)
    for rank in range(2):
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(dict(parts[rank].named_buffers())[name], buffer)
    for name, parameter in one.named_parameters():
        both = [dict(part.named_parameters())[name].grad for part in parts]
        assert both[0] is not None
        assert both[1] is not None
        torch.testing.assert_close((both[0] + both[1]) / 2, parameter.grad)


@pytest.mark.parametrize(("layers", "smallest"), [(1, 6), (2, 12), (3, 24)])
def test_images_need_room_for_a_patch(layers: int, smallest: int) -> None:
    network = PatchDiscriminator(width=2, layers=layers)
    assert min(network(torch.zeros(2, 3, smallest, smallest)).shape[2:]) >= 1
    with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
        network(torch.zeros(2, 3, smallest - 1, smallest))


@pytest.mark.parametrize("sizes", [(0, 3), (8, 0)])
def test_sizes_below_1_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        PatchDiscriminator(*sizes)
