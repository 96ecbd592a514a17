from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from configs.schema import MethodConfig, SamplingConfig, TrainConfig
from configs.shapes import VideoShape
from models.interface import Batch, Loss, Method, Networks, Phase, Progress, VideoNoise
from tools.training.runtime import Runtime
from tools.training.state import TrainState, load_networks

CPU = Runtime(torch.device("cpu"))
SHAPE = VideoShape(2, 3, 8, 8)


class Pair(Method):
    """Two linear networks, each with a phase of its own that looks at both."""

    Config = MethodConfig

    def build_networks(self) -> dict[str, nn.Module]:
        return {"first": nn.Linear(8, 8), "second": nn.Linear(8, 8)}

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase("first", self.first_loss), Phase("second", self.second_loss)]

    def first_loss(self, networks: Networks, batch: Batch) -> Loss:
        output = networks["second"](networks["first"](batch.videos))
        return Loss((output - 1).square().mean(), {"output": output.mean().detach()})

    def second_loss(self, networks: Networks, batch: Batch) -> Loss:
        return Loss(networks["second"](networks["first"](batch.videos)).square().mean())

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
    ) -> Tensor:
        raise NotImplementedError


def make(seed: int = 0, **settings: object) -> tuple[Pair, TrainState]:
    torch.manual_seed(seed)
    method = Pair(MethodConfig(), SHAPE)
    settings = {"learning_rate": 0.01, "clip_norm": 0.0, **settings}
    return method, TrainState(method, TrainConfig(**settings), CPU)  # type: ignore[arg-type]


def batch(count: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(SHAPE.batch(count), generator=generator) * 2 - 1)


def weights(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor.clone()
        for name, network in state.networks.items()
        for key, tensor in network.state_dict().items()
    }


def test_a_phase_moves_its_network_alone() -> None:
    method, state = make()
    before = weights(state)
    state.take(method.phases(0)[0], [batch()])
    moved = {key for key, tensor in weights(state).items() if not torch.equal(tensor, before[key])}
    assert moved == {"first/weight", "first/bias"}
    assert all(p.grad is None for p in state.networks["second"].parameters())


def test_several_rounds_equal_one_large_batch() -> None:
    whole = batch(6)
    rounds = [Batch(part) for part in whole.videos.split(2)]
    method, state = make()
    together = state.take(method.phases(0)[0], [whole])
    method, other = make()
    apart = other.take(method.phases(0)[0], rounds)
    for name, value in together.items():
        torch.testing.assert_close(apart[name], value)
    for key, tensor in weights(state).items():
        torch.testing.assert_close(weights(other)[key], tensor)


def test_what_is_measured_is_detached_and_named() -> None:
    method, state = make()
    measured = state.take(method.phases(0)[0], [batch()])
    assert set(measured) == {"loss/first", "output", "gradient_norm/first"}
    assert not any(value.requires_grad for value in measured.values())


def test_two_phases_of_one_network_can_be_told_apart_in_the_log() -> None:
    method, state = make()
    phase = dataclasses.replace(method.phases(0)[0], name="penalty")
    measured = state.take(phase, [batch()])
    assert set(measured) == {"loss/penalty", "output", "gradient_norm/penalty"}


def test_the_first_step_is_adamw_at_the_warmed_up_rate() -> None:
    method, state = make(warmup_steps=4)
    network = copy.deepcopy(state.networks["first"])
    view = {"first": network, "second": state.networks["second"]}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01 / 4, weight_decay=0.0)
    method.first_loss(view, batch()).total.backward()
    optimizer.step()
    state.take(method.phases(0)[0], [batch()])
    assert torch.equal(network.weight, state.networks["first"].weight)
    assert state.learning_rates()["first"] == 0.01 / 4


@pytest.mark.parametrize(("step", "clipped"), [(0, False), (1, True)])
def test_gradients_are_clipped_from_a_step_on(step: int, clipped: bool) -> None:
    method, state = make(clip_norm=1e-3, clip_from_step=1)
    state.step = step
    norm = state.take(method.phases(0)[0], [batch()])["gradient_norm/first"]
    left = nn.utils.get_total_norm([p.grad for p in state.networks["first"].parameters()])
    assert norm > 2e-3  # before clipping
    torch.testing.assert_close(left, torch.tensor(1e-3) if clipped else norm, rtol=1e-3, atol=0)


def test_a_gradient_that_is_not_finite_changes_nothing_and_says_what_to_do() -> None:
    method, state = make()
    nn.init.constant_(state.networks["second"].weight, 1e30)
    before = weights(state)
    with pytest.raises(FloatingPointError, match=r"step 0: .*'first'.*'first_loss'.*learning_rate"):
        state.take(method.phases(0)[0], [batch()])
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(state).items())


def test_bad_data_are_told_from_a_bad_learning_rate() -> None:
    method, state = make()
    videos = batch().videos
    videos[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"check the files of data\.folder"):
        state.take(method.phases(0)[0], [Batch(videos)])


def run(state: TrainState, method: Method, steps: int) -> None:
    for _ in range(steps):
        for phase in method.phases(state.step):
            state.take(phase, [batch(seed=state.step)])
        state.end_step()


class Controlled(Pair):
    """A pair with a buffer that the method moves itself; only `second` samples."""

    sampled = ("second",)

    def build_networks(self) -> dict[str, nn.Module]:
        networks = super().build_networks()
        networks["first"].register_buffer("strength", torch.zeros(()))
        return networks

    def end_step(self, networks: Networks, step: int, clips: int) -> dict[str, Tensor]:
        strength = networks["first"].get_buffer("strength")
        strength += 0.1 * clips
        return {"strength": strength, "step": torch.tensor(float(step))}


def test_a_method_moves_its_own_buffers_and_averages_what_samples() -> None:
    method = Controlled(MethodConfig(), SHAPE)
    settings = TrainConfig(batch_size=3, accumulation=2, learning_rate=0.01, clip_norm=0.0)
    state = TrainState(method, settings, CPU)
    logged = [dict(state.end_step()) for _ in range(2)]
    assert [float(each["step"]) for each in logged] == [0, 1]
    assert float(state.networks["first"].strength) == pytest.approx(1.2)
    assert state.clips == 12
    assert list(state.averages[0].networks) == ["second"]
    saved = copy.deepcopy(state.state())
    assert list(saved["ema"][0]) == ["second"]
    other = TrainState(method, settings, CPU)
    other.load(saved)
    assert (other.clips, float(other.networks["first"].strength)) == (12, pytest.approx(1.2))
    del saved["clips"]  # as in checkpoints from before clips were counted
    other.load(saved)
    assert other.clips == 12


def test_saved_and_loaded_training_goes_on_exactly() -> None:
    method, state = make(ema_decays=[0.9, 0.5], ema_warmup=True, warmup_steps=3)
    run(state, method, 2)
    saved = copy.deepcopy(state.state())
    run(state, method, 2)
    other_method, other = make(seed=1, ema_decays=[0.9, 0.5], ema_warmup=True, warmup_steps=3)
    other.load(saved)
    run(other, other_method, 2)
    assert other.step == 4
    assert str(other.state()["optimizers"]) == str(state.state()["optimizers"])
    for one, two in zip(state.averages, other.averages, strict=True):
        for name in one.networks:
            assert torch.equal(one.networks[name].weight, two.networks[name].weight)
    for key, tensor in weights(state).items():
        assert torch.equal(weights(other)[key], tensor), key


def test_a_changed_learning_rate_counts_after_loading() -> None:
    method, state = make()
    run(state, method, 1)
    other_method, other = make(learning_rate=0.5)
    other.load(state.state())
    run(other, other_method, 1)
    assert other.learning_rates() == {"first": 0.5, "second": 0.5}


def test_initial_weights_go_into_the_averages_too() -> None:
    _, source = make(seed=1)
    _, state = make(seed=2)
    state.start_from(source.state()["networks"])
    for name, network in source.networks.items():
        assert torch.equal(state.networks[name].weight, network.weight)
        assert torch.equal(state.averages[0].networks[name].weight, network.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "bias missing"),
        ({"extra": torch.zeros(1)}, "extra unknown"),
        ({"weight": torch.zeros(3, 8)}, r"weight is \(3, 8\) instead of \(8, 8\)"),
    ],
)
def test_loading_is_strict_and_names_what_differs(
    change: dict[str, Tensor | None], message: str
) -> None:
    network = nn.Linear(8, 8)
    given = {**network.state_dict(), **change}
    kept = {key: value for key, value in given.items() if value is not None}
    with pytest.raises(ValueError, match=message) as error:
        load_networks({"a": network}, {"a": kept})
    assert "\n" not in str(error.value)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['b'\], wanted are \['a'\]"):
        load_networks({"a": nn.Linear(1, 1)}, {"b": {}})


def test_a_frozen_parameter_stays_frozen() -> None:
    class Frozen(Pair):
        def build_networks(self) -> dict[str, nn.Module]:
            networks = super().build_networks()
            networks["first"].bias.requires_grad_(False)  # type: ignore[union-attr]
            return networks

    method = Frozen(MethodConfig(), SHAPE)
    state = TrainState(method, TrainConfig(), CPU)
    before = state.networks["first"].bias.clone()
    run(state, method, 1)
    assert torch.equal(state.networks["first"].bias, before)


def test_compiling_leaves_the_names_of_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: compiled.append(module))
    _, plain = make()
    _, state = make(compile=True)
    assert compiled == list(state.networks.values())
    assert weights(state).keys() == weights(plain).keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # inside the compiler
def test_a_compiled_step_equals_a_plain_one() -> None:
    method, plain = make()
    _, state = make(compile=True)
    for one in (plain, state):
        one.take(method.phases(0)[0], [batch()])
    assert weights(state).keys() == weights(plain).keys()
    for key, tensor in weights(plain).items():
        torch.testing.assert_close(weights(state)[key], tensor)


def test_bf16_keeps_float32_weights_and_optimizer() -> None:
    torch.manual_seed(0)
    method = Pair(MethodConfig(), SHAPE)
    state = TrainState(method, TrainConfig(), dataclasses.replace(CPU, bf16=True))
    seen: list[torch.dtype] = []
    state.networks["first"].register_forward_hook(lambda *args: seen.append(args[2].dtype))
    run(state, method, 1)
    assert set(seen) == {torch.bfloat16}
    assert {tensor.dtype for tensor in weights(state).values()} == {torch.float32}
    moments = state.optimizers["first"].state.values()
    assert {moment["exp_avg"].dtype for moment in moments} == {torch.float32}


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    """A process group whose only member is this process."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_wrapped_networks_train_like_plain_ones_and_keep_their_names(
    request: pytest.FixtureRequest,
) -> None:
    """Two networks that move in turn, with gradients exchanged after the last round alone."""
    method, plain = make()
    request.getfixturevalue("group_of_one")
    _, wrapped = make()
    for state in (plain, wrapped):
        for _ in range(3):
            rounds = [batch(seed=2 * state.step), batch(seed=2 * state.step + 1)]
            for phase in method.phases(state.step):
                state.take(phase, rounds)
            state.end_step()
    assert all(isinstance(net, DistributedDataParallel) for net in wrapped.parallel.values())
    assert weights(wrapped).keys() == weights(plain).keys()
    for key, tensor in weights(plain).items():
        torch.testing.assert_close(weights(wrapped)[key], tensor)
    saved = wrapped.state()
    assert list(saved["networks"]["first"]) == ["weight", "bias"]
    assert list(saved["ema"][0]["first"]) == ["weight", "bias"]
