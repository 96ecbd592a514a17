"""What only a GPU can show: bf16 training, compiled blocks, and the same videos as on a CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from configs.schema import TrainConfig
from configs.shapes import VideoShape
from models.codecs.build import CodecConfig
from models.interface import Batch, VideoNoise
from models.methods.endora import Endora, EndoraConfig, EndoraSampling, TransformerConfig
from models.priors.features import PriorConfig
from tools.training.compiling import compile_regions
from tools.training.runtime import Runtime
from tools.training.state import TrainState

pytestmark = pytest.mark.gpu
SHAPE = VideoShape(4, 3, 32, 32)


@pytest.fixture
def method() -> Endora:
    config = EndoraConfig(
        transformer=TransformerConfig(depth=4, width=64, heads=2),
        codec=CodecConfig(name="pixels", weights=None, stride=4),
        prior=PriorConfig(name="resnet18", weights="untrained", layers=[1, 2], pairs=[0, 1]),
    )
    return Endora(config, SHAPE)


def losses(method: Endora, settings: TrainConfig, steps: int, bf16: bool) -> list[float]:
    device = torch.device("cuda")
    torch.manual_seed(0)
    state = TrainState(method.to(device), settings, Runtime(device, bf16=bf16))  # type: ignore[arg-type]
    batch = Batch(torch.rand(SHAPE.batch(4)) * 2 - 1, torch.rand(4, 2, 3, 32, 32) * 2 - 1)
    found = []
    for step in range(steps):
        torch.manual_seed(step % 4)
        measured = state.take(method.phases(step)[0], [batch.to(device)])
        state.end_step()
        found.append(measured["loss/denoiser"].item())
    return found


def test_training_in_bf16_learns(method: Endora) -> None:
    settings = TrainConfig(learning_rate=1e-3, clip_norm=1.0)
    found = losses(method, settings, steps=60, bf16=True)
    assert sum(found[-4:]) < 0.8 * sum(found[:4])


def test_compiled_and_eager_steps_agree(method: Endora) -> None:
    settings = TrainConfig(learning_rate=1e-4)
    eager = losses(method, settings, steps=4, bf16=False)
    compiled = losses(method, dataclasses.replace(settings, compile=True), steps=4, bf16=False)
    assert compiled == pytest.approx(eager, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("compile", [False, True])
def test_no_step_waits_for_the_device(method: Endora, compile: bool) -> None:
    """After the first steps, which compile and copy tables, any waiting is an error."""
    device = torch.device("cuda")
    settings = TrainConfig(clip_norm=0.1, compile=compile, accumulation=2)
    state = TrainState(method.to(device), settings, Runtime(device, bf16=True))  # type: ignore[arg-type]
    batch = Batch(torch.zeros(SHAPE.batch(4)), torch.zeros(4, 2, 3, 32, 32)).to(device)
    for step in range(6):
        torch.cuda.set_sync_debug_mode("default" if step < 3 else "error")
        try:
            state.take(method.phases(step)[0], [batch, batch])
            state.end_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    state.settle()


def test_a_step_that_is_not_finite_changes_no_weight_and_is_told_one_step_later(
    method: Endora,
) -> None:
    device = torch.device("cuda")
    state = TrainState(method.to(device), TrainConfig(), Runtime(device))  # type: ignore[arg-type]
    before = [p.detach().clone() for p in state.networks["denoiser"].parameters()]
    batch = Batch(torch.full(SHAPE.batch(1), float("nan")), torch.zeros(1, 2, 3, 32, 32))
    state.take(method.phases(0)[0], [batch.to(device)])
    after = state.networks["denoiser"].parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    with pytest.raises(FloatingPointError, match=r"step 0.*check the files"):
        state.state()


def test_videos_are_those_of_a_cpu(method: Endora) -> None:
    torch.manual_seed(0)
    denoiser = method.build_networks()["denoiser"].eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    videos = []
    for device in ("cpu", "cuda"):
        method.to(torch.device(device))
        with torch.no_grad():
            videos.append(
                method.sample(
                    {"denoiser": denoiser.to(device)},
                    VideoNoise([1, 2], device),
                    EndoraSampling(sampler="ddim", steps=5),
                ).cpu()
            )
    torch.testing.assert_close(videos[0], videos[1], atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("reuse", [0.0, 0.3])
def test_compiled_sampling_agrees_and_compiles_once(method: Endora, reuse: float) -> None:
    torch.manual_seed(0)
    denoiser = method.to(torch.device("cuda")).build_networks()["denoiser"].eval().cuda()  # type: ignore[attr-defined]
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    settings = EndoraSampling(sampler="unipc3", steps=8, reuse=reuse)

    def sample(*seeds: int) -> torch.Tensor:
        with torch.no_grad():
            return method.sample({"denoiser": denoiser}, VideoNoise(seeds, "cuda"), settings)

    eager = sample(1, 2)
    compile_regions(denoiser)
    torch.testing.assert_close(sample(1, 2), eager, atol=2e-3, rtol=1e-2)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(sample(1, 2), eager, atol=2e-3, rtol=1e-2)


def test_decoding_in_bfloat16_is_close(method: Endora) -> None:
    latents = torch.randn(method.latents.batch(3), device="cuda")
    codec = method.codec.cuda()
    torch.testing.assert_close(
        codec.decode(latents, bf16=True), codec.decode(latents), atol=0.02, rtol=0
    )
