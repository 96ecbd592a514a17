"""Times of generated clips: their spans, their gaps, and that they stay inside the video."""

from __future__ import annotations

import pytest
import torch

from configs.shapes import FrameTimes
from models.layers.frame_times import draw_times

CLIPS = 2000


def draw(available: int, frames: int = 16, **settings: int | str) -> torch.Tensor:
    times = FrameTimes(frames, **{"spacing": "random", **settings})  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(available)
    return draw_times(times, torch.full((CLIPS,), available), generator)


@pytest.mark.parametrize("available", [16, 17, 32, 33, 150, 5000])
def test_times_ascend_by_whole_gaps_inside_the_video(available: int) -> None:
    drawn = draw(available).double()
    gaps = drawn.diff(dim=1)
    assert drawn.shape == (CLIPS, 16)
    assert gaps.min() >= 1
    assert torch.equal(gaps, gaps.round())
    assert drawn.min() >= 0
    assert drawn.max() <= min(available, 1024) - 1


@pytest.mark.parametrize(
    ("available", "spans"), [(9, [15]), (16, [15]), (17, [16]), (32, [16]), (33, [16, 32])]
)
def test_spans_are_those_that_fit(available: int, spans: list[int]) -> None:
    drawn = draw(available)
    found, counts = (drawn[:, -1] - drawn[:, 0]).unique(return_counts=True)
    assert found.tolist() == spans
    assert counts.min() > 0.45 * CLIPS


def test_starts_lie_anywhere_between_frames() -> None:
    drawn = draw(150)
    starts, room = drawn[:, 0], 149 - (drawn[:, -1] - drawn[:, 0])
    places = (starts / room).sort().values
    assert (places - torch.linspace(0, 1, CLIPS)).abs().max() < 0.04  # Kolmogorov-Smirnov, 1.8 sd
    fractions = starts.frac().sort().values
    assert (fractions - torch.linspace(0, 1, CLIPS)).abs().max() < 0.04
    same = drawn.frac()
    assert torch.equal(same, same[:, :1].expand_as(same))


def test_all_steps_inside_a_span_are_equally_likely() -> None:
    drawn = draw(40, frames=4, longest_span=8)
    steps = (drawn - drawn[:, :1])[drawn[:, -1] - drawn[:, 0] == 8][:, 1:-1].long()
    shares = torch.bincount(steps.flatten(), minlength=8)[1:] / steps.numel()
    torch.testing.assert_close(shares, torch.full((7,), 1 / 7), rtol=0.2, atol=0)


def test_each_clip_has_its_own_length() -> None:
    available = torch.tensor([17, 64] * 500)
    drawn = draw_times(FrameTimes(16, "random"), available)
    spans = drawn[:, -1] - drawn[:, 0]
    assert spans[::2].unique().tolist() == [16]
    assert spans[1::2].unique().tolist() == [16, 32]


def test_a_long_video_counts_only_so_far() -> None:
    assert draw(5000, longest_video=40).max() <= 39


def test_two_frames_and_even_spacing() -> None:
    assert (draw(64, frames=2).diff(dim=1) >= 1).all()
    assert draw(64, frames=4, spacing="even").diff(dim=1).eq(1).all()


def test_a_generator_decides_everything() -> None:
    assert torch.equal(draw(150), draw(150))
