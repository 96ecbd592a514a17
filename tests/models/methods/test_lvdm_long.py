"""Long videos by LVDM: masks, levels, plans, and that nothing is left out or mixed up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from configs.load import load_run
from models.interface import Batch, VideoNoise
from models.methods import lvdm_long
from models.methods.lvdm_long import Given, LvdmLong, LvdmLongSampling, plan_video
from models.registry import build_method, method_config

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "method.autoencoder=untrained",
    "clip.size=32",
    "method.prediction=noise",
    "clip.frames=64",  # four keys, four latents apart, as published
    "method.key_every=4",
    "method.unet={width: 16, multipliers: [1, 2], groups: 8}",
]
FEW = LvdmLongSampling(steps=3)


class Recorder(nn.Module):
    """Stands in for a network: keeps what it is asked, predicts a constant for each answer."""

    def __init__(self, network: nn.Module, value: float = 0.0) -> None:
        super().__init__()
        self.network, self.value = network, value
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []

    def forward(
        self, noisy: Tensor, timestep: Tensor, given: Tensor, level: Tensor | None = None
    ) -> Tensor:
        self.calls.append((noisy.clone(), timestep, given, level))
        # Another answer with given frames than without, a parameter's gradient included.
        zero = 0 * sum(parameter.sum() for parameter in self.parameters())
        return torch.full_like(noisy, self.value) + given.mean() + zero

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.network, name)


def build(*overrides: str, training: bool = True) -> LvdmLong:
    torch.manual_seed(0)
    path = ROOT / "configs" / "demo" / "lvdm_long.yaml"
    method = build_method(load_run(path, [*SMALL, *overrides], method_config), training=training)
    assert isinstance(method, LvdmLong)
    return method


def recorded(method: LvdmLong) -> dict[str, Recorder]:
    return {name: Recorder(network) for name, network in method.build_networks().items()}


def small() -> LvdmLong:
    """Clips of 16 frames: 4 latents, 2 of them keys."""
    return build("clip.frames=16", "method.key_every=2", training=False)


def clips(method: LvdmLong, count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(method.shape.batch(count), generator=generator) * 2 - 1)


@pytest.mark.parametrize(
    ("predictions", "keys", "latents"), [(0, 4, 13), (1, 7, 25), (2, 10, 37), (5, 19, 73)]
)
def test_plans_are_as_published(predictions: int, keys: int, latents: int) -> None:
    assert plan_video(latents, 4, 4) == (keys, predictions, latents)
    assert plan_video(latents + 1, 4, 4).predictions == predictions + 1


@pytest.mark.parametrize("frames", range(1, 200, 7))
def test_plans_are_long_enough_and_no_longer_than_needed(frames: int) -> None:
    plan = build().plan(frames)
    assert 4 * plan.latents >= frames
    assert plan.predictions == 0 or 4 * (plan.latents - 4 * 3) < frames


def test_the_networks_have_the_sizes_of_their_clips() -> None:
    method = build()
    assert (method.keys, method.between) == (4, 5)
    prediction, interpolation = method.build_networks().values()
    tables = [
        network.get_parameter("middle_block.1.relative_position_k.embeddings_table")
        for network in (prediction, interpolation)
    ]
    assert [len(table) for table in tables] == [9, 11]
    for network in (prediction, interpolation):
        assert network.get_parameter("label_emb.weight").shape[0] == 251
        assert network.get_parameter("input_blocks.0.0.weight").shape[1] == 5


@pytest.mark.parametrize(
    ("name", "given", "share"),
    [("prediction", [1, 0, 0, 0], 0.5), ("interpolation", [1, 0, 0, 0, 1], 0.9)],
)
def test_training_masks_and_levels(name: str, given: list[int], share: float) -> None:
    method = build()
    networks = recorded(method)
    count, shares = 8, []
    for seed in range(12):
        torch.manual_seed(seed)
        loss = dict(zip(networks, method.phases(0), strict=True))[name].loss
        loss(networks, clips(method, count))
        _, _, mask, level = networks[name].calls[-1]
        assert level is not None
        for row, value in zip(mask.tolist(), level.tolist(), strict=True):
            if any(row):
                assert row == given
                assert 0 <= value < 250
            else:
                assert value == 250
        shares.append(mask[:, 0].mean().item())
    assert sum(shares) / len(shares) == pytest.approx(share, abs=0.12)


def test_given_frames_enter_at_their_own_level() -> None:
    """Clips of zeros show the noise alone: its deviation tells the level."""
    method = build("method.predict_given=1.0", "method.levels=1")
    network = recorded(method)["prediction"]
    clean = torch.zeros(64, 4, 4, 4, 4)
    torch.manual_seed(0)
    method.draw_levels = lambda clean: torch.full((len(clean),), 999)  # type: ignore[method-assign]
    method._given_loss(network, clean, torch.tensor([1.0, 0, 0, 0]), 1.0)
    noisy, _, _, level = network.calls[0]
    assert level is not None
    assert not level.any()
    assert noisy[:, 0].std().item() == pytest.approx(0.0387298, rel=0.05)
    assert noisy[:, 1:].std().item() == pytest.approx(1, rel=0.05)


def test_the_noise_of_given_frames_is_predicted_too() -> None:
    method = build()
    network = recorded(method)["prediction"]
    mask = torch.tensor([1.0, 0, 0, 0])
    torch.manual_seed(0)
    loss = method._given_loss(network, torch.zeros(256, 4, 4, 4, 4), mask, 0.0).total
    assert loss.item() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.01)  # E |N(0, 1)|


def test_without_a_row_the_level_is_drawn_in_training_and_missing_when_sampling() -> None:
    method = build("method.unconditional=none", "method.predict_given=0.0", "clip.frames=32")
    networks = recorded(method)
    method.prediction_loss(networks, clips(method, 8))
    level = networks["prediction"].calls[0][3]
    assert level is not None
    assert level.max() < 250
    method.conditional_denoise(networks["prediction"], FEW, None)(
        torch.randn(1, 4, 4, 4, 4), torch.tensor([5])
    )
    assert networks["prediction"].calls[-1][3] is None


def given_clip() -> tuple[Tensor, Given]:
    torch.manual_seed(0)
    noisy, values = torch.randn(2, 2, 4, 4, 4, 4)
    return noisy, Given(values, torch.tensor([[1.0, 0, 0, 0]] * 2))


def test_guided_predictions_have_separate_inputs() -> None:
    method = build()
    network = recorded(method)["prediction"]
    noisy, given = given_clip()
    before = noisy.clone()
    method.conditional_denoise(network, FEW, given)(noisy, torch.tensor([700, 700]))
    assert torch.equal(noisy, before)  # the sampler's own is untouched
    with_given, without = network.calls
    assert torch.equal(with_given[0][:, 0], given.values[:, 0])
    assert torch.equal(with_given[0][:, 1:], noisy[:, 1:])
    assert with_given[2].tolist() == [[1, 0, 0, 0]] * 2
    assert with_given[3] is not None
    assert with_given[3].tolist() == [100, 100]
    assert torch.equal(without[0], noisy)
    assert not without[2].any()
    assert without[3] is not None
    assert without[3].tolist() == [250, 250]


@pytest.mark.parametrize(
    ("mode", "guidance", "calls", "wanted"),
    [
        ("original", 0.0, 1, 0.25),
        ("standard", 1.0, 1, 0.25),
        ("original", 2.0, 2, 0.75),  # 0.25 + 2 (0.25 - 0)
        ("standard", 2.0, 2, 0.5),  # 0 + 2 (0.25 - 0)
    ],
)
def test_guidance_modes(mode: str, guidance: float, calls: int, wanted: float) -> None:
    method = build()
    network = recorded(method)["prediction"]  # predicts 0.25 with the first of 4 given, else 0
    noisy, given = given_clip()
    choices = dataclasses.replace(FEW, guidance=guidance, guidance_mode=mode)  # type: ignore[arg-type]
    output = method.conditional_denoise(network, choices, given)(noisy, torch.tensor([700] * 2))
    assert len(network.calls) == calls
    torch.testing.assert_close(output[:, 1:], torch.full_like(noisy[:, 1:], wanted))


def test_the_first_clip_is_asked_for_once_a_step() -> None:
    method = small()
    networks = recorded(method)
    with torch.no_grad():
        method.sample(networks, VideoNoise([0], "cpu"), FEW, frames=8)
    assert len(networks["prediction"].calls) == FEW.steps
    assert not any(mask.any() for _, _, mask, _ in networks["prediction"].calls)


def test_all_gaps_are_filled_from_their_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key k is the number k; what fills a gap is made to tell its two ends."""
    method = small()
    networks = recorded(method)
    keys = torch.arange(6.0).view(1, 6, 1, 1, 1).expand(2, 6, 4, 4, 4)
    choices = dataclasses.replace(FEW, gaps_at_once=2)
    run = lvdm_long._Run(method, choices, VideoNoise([0, 1], "cpu"), None, runs=3)
    monkeypatch.setattr(run, "_noised", lambda latents: latents)

    def middle(network: nn.Module, length: int, given: Given, repeats: int) -> Tensor:
        assert given.mask.tolist() == [[1, 0, 1]] * (2 * repeats)
        between = given.values[:, :1] * 10 + given.values[:, -1:]
        return torch.cat([given.values[:, :1] - 7, between, given.values[:, :1] - 7], dim=1)

    monkeypatch.setattr(run, "_sample", middle)
    groups = lvdm_long._groups(5, 2)
    latents = run.interpolate(networks["interpolation"], keys, groups)  # type: ignore[arg-type]
    wanted = [0, 1, 1, 12, 2, 23, 3, 34, 4, 45, 5]
    assert latents[:, :, 0, 0, 0].tolist() == [wanted] * 2
    assert [list(group) for group in groups] == [[0, 1], [2, 3], [4]]


def test_gaps_behind_the_end_are_not_filled() -> None:
    """Keys come in clips; 30 frames are 8 latents, which lie in the first 4 of the 6 gaps."""
    method = build("clip.frames=32", "method.key_every=2", training=False)
    networks = recorded(method)
    with torch.no_grad():
        method.sample(networks, VideoNoise([0], "cpu"), FEW, frames=30)
    assert method.plan(30).keys == 7
    assert [len(noisy) for noisy, _, _, _ in networks["interpolation"].calls] == [4] * 2 * FEW.steps


def test_predictions_go_on_from_the_last_key(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small()
    networks = recorded(method)
    run = lvdm_long._Run(method, FEW, VideoNoise([0], "cpu"), None, runs=3)
    monkeypatch.setattr(run, "_noised", lambda latents: latents)
    seen: list[Given | None] = []

    def count_on(network: nn.Module, length: int, given: Given | None) -> Tensor:
        seen.append(given)
        first = 0.0 if given is None else given.values[0, 0, 0, 0, 0].item()
        return first + torch.arange(float(length)).view(1, -1, 1, 1, 1).expand(1, -1, 4, 4, 4)

    monkeypatch.setattr(run, "_sample", count_on)
    keys = run.predict(networks["prediction"], plan_video(13, method.keys, 2))  # type: ignore[arg-type]
    assert keys[0, :, 0, 0, 0].tolist() == list(range(7))
    assert seen[0] is None
    assert all(given is not None and given.mask.tolist() == [[1, 0]] for given in seen[1:])


def videos(method: LvdmLong, seeds: list[int], frames: int, **choices: object) -> Tensor:
    torch.manual_seed(1)
    networks = method.build_networks()
    for network in networks.values():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.05)
        network.eval().requires_grad_(False)
    with torch.no_grad():
        given = dataclasses.replace(FEW, **choices)  # type: ignore[arg-type]
        return method.sample(networks, VideoNoise(seeds, "cpu"), given, frames=frames)


@pytest.mark.parametrize("frames", [1, 12, 29])
def test_any_number_of_frames_can_be_had(frames: int) -> None:
    made = videos(small(), [0], frames)
    assert made.shape == (1, frames, 3, 32, 32)
    assert made.isfinite().all()


def test_videos_belong_to_their_seeds_whatever_the_batch() -> None:
    together = videos(small(), [5, 6], 20)
    torch.testing.assert_close(videos(small(), [6], 20), together[1:], atol=1e-3, rtol=1e-3)
    assert not torch.equal(together[0], together[1])


def test_progress_counts_all_runs() -> None:
    method = small()
    networks = recorded(method)
    told: list[tuple[int, int]] = []
    with torch.no_grad():
        method.sample(
            networks, VideoNoise([0], "cpu"), FEW, lambda *done: told.append(done), frames=41
        )
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))


def test_long_videos_are_decoded_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small()
    sizes: list[int] = []
    decode = method.codec.network.decode

    def counting(latents: Tensor) -> Tensor:
        sizes.append(latents.shape[2])
        return decode(latents)

    monkeypatch.setattr(method.codec.network, "decode", counting)
    videos(method, [0], 28)
    assert len(sizes) > 2
    assert max(sizes) == 4


def test_seams_are_the_keys() -> None:
    assert small().seams(FEW, 24) == [8, 16]
    assert small().seams(FEW, 25) == [8, 16, 24]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["clip.frames=24", "method.key_every=4"], "clip.frames: key latents lie 16 frames apart"),
        (["clip.frames=18"], "clip.frames as a multiple of 4"),
        (["method.key_every=1"], "method.key_every: at least 2"),
        (["method.predict_given=1.5"], "method.predict_given: from 0 to 1"),
        (["method.levels=0"], "method.levels: from 1 to 1000"),
        (["method.autoencoder=''"], "method.autoencoder: name stage 1"),
    ],
)
def test_mistakes_are_told_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value)


def test_a_level_that_was_not_trained_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sampling.given_level: below method.levels=250"):
        videos(small(), [0], 16, given_level=250)
