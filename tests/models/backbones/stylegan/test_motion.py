"""Motion is exact at its anchors, continuous, local; and of time gaps only gaps are seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.backbones.stylegan.motion import MotionEncoder, MotionSizes, TimeGaps

SMALL = MotionSizes(noise_width=64, code_width=64, periods=32, longest_period=256)
LENGTH = 26


@pytest.fixture
def encoder(fill) -> MotionEncoder:
    return fill(MotionEncoder(SMALL), "synthesis.motion_encoder.")


@pytest.fixture
def noise(normal) -> Tensor:
    return normal(2, 4, LENGTH, 64)


def codes(encoder: MotionEncoder, noise: Tensor) -> Tensor:
    """The codes of all anchors (B, L - context, Wm), by loops over places and taps, in float64."""
    values = noise.double()
    for layer in encoder.conv:
        weight = layer.weight.double() * 0.01 / math.sqrt(64 * 11)
        places = range(values.shape[1] - 10)
        sums = [
            sum(values[:, place + tap] @ weight[:, :, tap].T for tap in range(11))
            for place in places
        ]
        values = torch.stack(sums, dim=1) + layer.bias.double() * 0.01
        values = torch.where(values > 0, values, 0.2 * values)
    return values


def encode(encoder: MotionEncoder, time: float, codes: Tensor) -> Tensor:
    """The encoding of one time, (B, V), straight from the formula, in float64."""
    parts = encoder.time_encoder
    p, q, a = (
        predictor.weight.double() / 8  # sqrt(64)
        for predictor in (parts.periods_predictor, parts.phase_predictor, parts.aligners_predictor)
    )
    periods = 2 ** torch.linspace(math.log2(16), math.log2(256), 32, dtype=torch.float64)
    omega = 2 * math.pi / periods.flip(0)
    rho = 256 * omega / (2 * math.pi)
    anchor = math.floor(time / 16)
    left, right, share = codes[:, anchor], codes[:, anchor + 1], time / 16 - anchor

    def waves(moment: float) -> Tensor:
        theta = omega * (torch.tanh(left @ p.T) + 1) * moment + rho * (left @ q.T)
        return torch.cat([theta.sin(), theta.cos()], dim=-1)

    gap = (1 - share) * waves(16 * anchor) + share * waves(16 * anchor + 16)
    return waves(time) - gap + (1 - share) * left @ a.T + share * right @ a.T


def test_known_numbers(encoder: MotionEncoder, noise: Tensor, times: Tensor) -> None:
    motion = encoder(times, noise)[..., [0, 15, 31, 32, 63]]
    first = torch.tensor([-0.315371, 0.0465657, 0.878208, -0.0233338, -0.0229751])
    later = torch.tensor([-0.140097, -0.393191, 0.385921, 0.135786, 0.307575])
    anchor = torch.tensor([-0.183664, -0.781378, 0.54761, -0.496689, -0.348985])
    torch.testing.assert_close(motion[0, 0], first, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(motion[2, 3], later, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(motion[3, 3], anchor, rtol=1e-4, atol=1e-6)


def test_motion_and_its_gradients_are_those_of_the_formula(
    encoder: MotionEncoder, noise: Tensor
) -> None:
    times = [17.25, 0.0, 64.0, 31.999, 48.5]
    weights = torch.randn(4, len(times), SMALL.width)
    results = []
    for slow in (False, True):
        if slow:
            all_codes = codes(encoder, noise)
            motion = torch.stack([encode(encoder, time, all_codes) for time in times], dim=1)
        else:
            motion = encoder(torch.tensor(times).expand(4, -1), noise)
        (motion * weights).sum().backward()
        gradients = [parameter.grad.clone() for parameter in encoder.parameters()]
        encoder.zero_grad()
        results.append([motion.float(), *gradients])
    for fast, slow in zip(*results, strict=True):
        scale = slow.abs().max().item()
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4 * scale)


def test_at_an_anchor_motion_is_a_linear_map_of_its_code(
    encoder: MotionEncoder, noise: Tensor
) -> None:
    anchors = torch.arange(5)
    first, found = encoder.codes(anchors.expand(4, -1), noise)
    assert first.eq(0).all()
    linear = encoder.time_encoder.aligners_predictor(found[:, :5])
    assert torch.equal(encoder(16.0 * anchors.expand(4, -1), noise), linear)


@pytest.mark.parametrize("side", [-1, 1])
def test_motion_is_continuous_at_anchors(encoder: MotionEncoder, noise: Tensor, side: int) -> None:
    steps = torch.tensor([0.0, 0.1, 0.01, 0.001])
    motion = encoder((16 + side * steps).expand(4, -1), noise)
    jumps = (motion[:, 1:] - motion[:, :1]).abs().mean(dim=(0, 2))
    assert jumps[0] < 0.3
    torch.testing.assert_close(jumps[:-1] / jumps[1:], torch.full((2,), 10.0), rtol=0.15, atol=0)


@pytest.mark.parametrize(("changed", "kept"), [(24, 48), (23, 32)])
def test_far_noise_changes_nothing(
    encoder: MotionEncoder, noise: Tensor, changed: int, kept: int
) -> None:
    times = torch.tensor([0.0, 15.5, kept - 16.5, kept - 0.01, kept, kept + 0.01]).expand(4, -1)
    other = noise.clone()
    other[:, changed:] += 1
    same = encoder(times, noise).eq(encoder(times, other)).all(dim=(0, 2))
    assert same.tolist() == [True, True, True, True, True, False]


def test_other_frames_of_a_clip_and_spare_noise_change_nothing(
    encoder: MotionEncoder, noise: Tensor, times: Tensor
) -> None:
    motion = encoder(times, noise)
    alone = encoder(times[2:3, 3:], noise[2:3, : SMALL.noise_length(19)])
    torch.testing.assert_close(alone[0, 0], motion[2, 3], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(times.flip(1), noise).flip(1), motion, rtol=0, atol=1e-5)


def test_only_the_anchors_of_a_clip_are_computed(encoder: MotionEncoder, normal) -> None:
    seen = []
    encoder.conv[1].register_forward_hook(lambda _, __, output: seen.append(output.shape[-1]))
    late = torch.tensor([[1000.5, 1001.5], [3.0, 4.0]])
    motion = encoder(late, normal(5, 2, SMALL.noise_length(1001.5), 64))
    assert seen == [2]
    assert torch.isfinite(motion).all()


@pytest.mark.parametrize(("latest", "length"), [(0, 22), (15.999, 22), (16, 23), (1023, 85)])
def test_noise_length_is_enough_and_not_more(
    encoder: MotionEncoder, latest: float, length: int
) -> None:
    assert SMALL.noise_length(latest) == length
    time = torch.tensor([[latest]])
    encoder(time, torch.randn(1, length, 64))
    with pytest.raises(ValueError, match=f"{length} are needed"):
        encoder(time, torch.randn(1, length - 1, 64))


def test_a_late_clip_beside_one_that_spans_more(encoder: MotionEncoder, noise: Tensor) -> None:
    times = torch.tensor([[0.0, 40.0], [78.0, 79.0]])
    together = encoder(times, noise[:2, : SMALL.noise_length(79)])
    alone = encoder(times[1:], noise[1:2])
    torch.testing.assert_close(together[1:], alone)


def test_times_before_zero_are_refused(encoder: MotionEncoder, noise: Tensor) -> None:
    with pytest.raises(ValueError, match="from time 0 on"):
        encoder(torch.full((4, 2), -0.5), noise)


def test_autocast_leaves_motion_in_float32(
    encoder: MotionEncoder, noise: Tensor, times: Tensor
) -> None:
    exact = encoder(times, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(times, noise), exact)


def test_motion_is_varied_and_does_not_repeat(encoder: MotionEncoder, normal) -> None:
    noise = normal(6, 1, SMALL.noise_length(1023), 64)
    times = torch.arange(0.0, 1024, 4)
    with torch.no_grad():
        motion = encoder(times[None], noise)[0]
    centred = torch.nn.functional.normalize(motion - motion.mean(0), dim=1)
    apart = (times[:, None] - times).abs() >= 32
    assert (centred @ centred.T)[apart].max() < 0.9  # of a periodic encoding it would be 1


def test_known_time_gaps(fill, times: Tensor) -> None:
    gaps = fill(TimeGaps(64), "time_encoder.")
    embedded = gaps(times)
    assert embedded.shape == (4, 804)
    assert gaps.width(4) == 804
    known = torch.tensor([0.0980171, 0.19509, 2.48723])
    torch.testing.assert_close(embedded[1, [256, 257, 270]], known, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("video", "width"), [(1024, 15 * 276), (300, 15 * 274)])
def test_width_of_time_gaps(video: int, width: int) -> None:
    assert TimeGaps(video)(torch.arange(16.0)[None]).shape == (1, width)


def test_absolute_time_is_not_seen(times: Tensor) -> None:
    gaps = TimeGaps(64)
    assert torch.equal(gaps(times), gaps(times + 12.5))
    assert not torch.equal(gaps(times), gaps(2 * times))


def test_every_gap_has_its_own_place() -> None:
    gaps = TimeGaps(64)
    parts = gaps(torch.tensor([[0.0, 3, 4], [0, 1, 4]])).view(2, 2, -1)
    assert torch.equal(parts[0], parts[1].flip(0))
    assert torch.equal(parts[0, 0, :256], gaps.const_embed.weight[3])
