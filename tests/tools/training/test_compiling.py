"""Compiled training: one code per kind of block, made once, with the results of plain training."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.utils import counters

from configs.schema import TrainConfig
from configs.shapes import VideoShape
from models.codecs.build import CodecConfig
from models.interface import Batch
from models.methods.endora import Endora, EndoraConfig, TransformerConfig
from models.priors.features import PriorConfig
from tools.training import compiling, state
from tools.training.compiling import compile_regions, missing_tool, wants_compiling
from tools.training.runtime import Runtime
from tools.training.state import TrainState

CPU = torch.device("cpu")
SHAPE = VideoShape(4, 3, 16, 16)


def make(
    settings: TrainConfig, bf16: bool = False, **transformer: object
) -> tuple[Endora, TrainState]:
    torch.manual_seed(0)
    config = EndoraConfig(
        transformer=TransformerConfig(depth=6, width=32, heads=2, **transformer),  # type: ignore[arg-type]
        codec=CodecConfig(name="pixels", weights=None, stride=4),
        prior=PriorConfig(
            name="resnet18", weights="untrained", layers=[1], pairs=[1], until_step=3
        ),
    )
    method = Endora(config, SHAPE)
    return method, TrainState(method, settings, Runtime(CPU, bf16=bf16))


def rounds(step: int, count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(step)
    return [
        Batch(
            torch.rand(2, 4, 3, 16, 16, generator=generator) * 2 - 1,
            torch.rand(2, 2, 3, 16, 16, generator=generator) * 2 - 1,
        )
        for _ in range(count)
    ]


def train(method: Endora, state: TrainState, steps: int) -> list[float]:
    losses = []
    for step in range(state.step, state.step + steps):
        torch.manual_seed(step)
        losses.append(state.take(method.phases(step)[0], rounds(step))["loss/denoiser"].item())
        state.end_step()
    return losses


def look(state: TrainState) -> None:
    """What a preview does: the clip alone, without gradients."""
    network = state.networks["denoiser"].eval()
    with torch.no_grad():
        network(torch.zeros(1, 4, 48, 4, 4), torch.tensor([5]))
    network.train()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without making any code, and count from nothing."""
    monkeypatch.setattr(
        state, "compile_regions", lambda net, **how: compile_regions(net, "eager", **how)
    )
    monkeypatch.setattr(state, "wants_compiling", lambda setting, device: bool(setting))
    torch._dynamo.reset()
    counters.clear()


def made() -> int:
    """Graphs compiled so far; none of them may be a part of a function."""
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


COMPILED = TrainConfig(compile=True, clip_norm=1.0)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(
    ("checkpointing", "bf16"), [(False, False), (True, True), ("half", False), ("mlp", True)]
)
def test_each_kind_of_block_is_compiled_once_in_a_run(
    checkpointing: bool | str, bf16: bool
) -> None:
    """Over accumulation, previews, and the step from which the prior no longer guides."""
    method, training = make(COMPILED, bf16, checkpointing=checkpointing)
    train(method, training, 1)
    assert made() == 3  # spatial, temporal, final
    look(training)
    assert made() == 6  # the same without gradients and images
    train(method, training, 4)
    look(training)
    assert made() == 6


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_blocks_share_their_code_inside_parallel_training(tmp_path: Path, sharding: Any) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        settings = dataclasses.replace(COMPILED, sharding=sharding, preview_every=0)
        method, training = make(settings)
        train(method, training, 1)
        first = made()
        train(method, training, 3)
        assert first == made() == 3
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("counting")
def test_names_of_weights_stay_and_losses_agree() -> None:
    plain_method, plain = make(dataclasses.replace(COMPILED, compile=False))
    method, compiled = make(COMPILED)
    names = list(plain.networks["denoiser"].state_dict())
    assert list(compiled.networks["denoiser"].state_dict()) == names
    assert list(compiled.averages[0].networks["denoiser"].state_dict()) == names
    expected = train(plain_method, plain, 3)
    assert train(method, compiled, 3) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(missing_tool("cpu") is not None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # inside the compiler
def test_machine_code_gives_the_same_losses_and_goes_on_exactly() -> None:
    torch._dynamo.reset()
    plain_method, plain = make(dataclasses.replace(COMPILED, compile=False))
    expected = train(plain_method, plain, 4)
    method, whole = make(COMPILED)
    found = train(method, whole, 2)
    saved = whole.state()
    saved = {**saved, "networks": clone(saved["networks"]), "ema": [clone(e) for e in saved["ema"]]}
    other_method, other = make(COMPILED)
    other.load(saved)
    found += train(method, whole, 2)
    train(other_method, other, 2)
    assert found == pytest.approx(expected, rel=1e-4)
    for name, value in whole.networks["denoiser"].state_dict().items():
        assert torch.equal(value, other.networks["denoiser"].state_dict()[name]), name


def clone(networks):
    return {n: {k: v.clone() for k, v in net.items()} for n, net in networks.items()}


def test_without_a_compiler_training_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiling._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not wants_compiling(True, CPU)
        assert not wants_compiling(True, CPU)
    (record,) = caplog.records
    assert "train.compile: no compiler found" in record.message
    assert "\n" not in record.message


def test_auto_leaves_a_cpu_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert not wants_compiling("auto", CPU)
    assert not wants_compiling(False, CPU)
    assert not caplog.records
    if missing_tool("cpu") is None:
        assert wants_compiling(True, CPU)


class Shrinking(nn.Module):
    """Blocks of one class that each see another shape, more than the compiler keeps by itself."""

    class Block(nn.Module):
        compiled_alone = True

        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, width - 1)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.layer(values)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[self.Block(width) for width in range(16, 2, -1)])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.blocks(values)


def test_blocks_of_one_class_may_have_many_shapes() -> None:
    torch._dynamo.reset()
    network = Shrinking()
    values = torch.rand(3, 16)
    expected = network(values)
    compile_regions(network, "eager")
    torch.testing.assert_close(network(values), expected)
