"""The frames of a clip: their spread over a window of time, and the published rule."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.windows import (
    even_windows,
    frames_in,
    published_window,
    spread,
    train_window,
)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_published_rule_repeats_the_last_frame_of_a_generated_clip() -> None:
    assert published_window(16, 8, fps=8) == [0, 9, 15, 15, 15, 15, 15, 15]


@pytest.mark.parametrize("fps", [25.0, 30.0])
def test_published_rule_sees_two_frames_of_a_faster_clip(fps: float) -> None:
    assert len(set(published_window(16, 8, fps=fps))) == 2


def test_published_rule_takes_every_thirtysecond_frame_of_a_long_video() -> None:
    chosen = published_window(5000, 8, fps=30)
    assert chosen == [k * 255 // 7 for k in range(8)]
    starts = {published_window(5000, 8, fps=30, random=random(k))[0] for k in range(20)}
    assert len(starts) == 20
    assert max(published_window(257, 8, fps=30, random=random(k))[-1] for k in range(50)) <= 256


def test_a_generated_clip_gives_different_frames() -> None:
    span = frames_in(16 * 3 / 25, 25 / 3)
    assert span == 16
    for seed in range(5):
        assert train_window(16, 8, span, random(seed)) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert even_windows(16, 8, span, 10) == [[1, 3, 5, 7, 9, 11, 13, 15]]


def test_recordings_and_generated_clips_are_seen_at_the_same_times() -> None:
    recorded = spread(0, frames_in(16 * 3 / 25, 25), 8)
    generated = spread(0, frames_in(16 * 3 / 25, 25 / 3), 8)
    seconds = [frame / 25 for frame in recorded]
    assert np.allclose(np.diff(seconds), np.diff(generated) * 3 / 25)


@pytest.mark.parametrize("available", [1, 3, 8, 9, 47, 48, 49, 200])
@pytest.mark.parametrize("frames", [1, 4, 8])
@pytest.mark.parametrize("span", [1, 8, 48])
def test_windows_stay_inside_and_repeat_nothing_they_need_not(
    available: int, frames: int, span: int
) -> None:
    windows = even_windows(available, frames, span, 10)
    windows += [train_window(available, frames, span, random(seed)) for seed in range(10)]
    for window in windows:
        assert len(window) == frames
        assert window == sorted(window)
        assert window[0] >= 0
        assert window[-1] < available
        assert window[-1] - window[0] < max(span, frames)
        assert len(set(window)) == min(frames, available)


def test_a_short_video_is_spread_evenly() -> None:
    assert spread(0, 3, 8) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert train_window(3, 8, 48, random()) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_random_windows_reach_every_place_alike() -> None:
    starts = [train_window(20, 4, 8, random(seed))[0] for seed in range(1300)]
    first = spread(0, 8, 4)[0]
    counts = np.bincount([start - first for start in starts])
    assert len(counts) == 13
    assert counts.min() > 60


def test_even_windows_reach_from_end_to_end() -> None:
    windows = even_windows(1000, 8, 48, 10)
    assert len(windows) == 10
    assert windows[0] == spread(0, 48, 8)
    assert windows[-1] == spread(1000 - 48, 48, 8)
    gaps = np.diff([window[0] for window in windows])
    assert gaps.max() - gaps.min() <= 1
    assert even_windows(1000, 8, 48, 1) == [spread((1000 - 48) // 2, 48, 8)]
    assert len(even_windows(50, 8, 48, 10)) == 3  # there are only three


@pytest.mark.parametrize(("seconds", "fps"), [(0.0, 25.0), (1.0, 0.0), (float("nan"), 25.0)])
def test_times_that_mean_nothing_are_refused(seconds: float, fps: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        frames_in(seconds, fps)


def test_empty_videos_and_no_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="without frames"):
        train_window(0, 8, 8, random())
    with pytest.raises(ValueError, match="0 frames"):
        published_window(0, 8, 25)
    with pytest.raises(ValueError, match="number of windows"):
        even_windows(10, 8, 8, 0)
