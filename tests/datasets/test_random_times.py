"""Clips with frames at random times: which times there are, and that pictures belong to them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import ClipConfig, DataConfig
from datasets.clips import ClipDataset, random_times
from datasets.image_io import write_image
from datasets.sampling import endless_batches


def clip(**changes: object) -> ClipConfig:
    settings = {"frames": 16, "size": 32, "frame_interval": 1, "spacing": "random", **changes}
    return ClipConfig(**settings)  # type: ignore[arg-type]


def drawn(available: int, count: int = 400, **changes: object) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random_times(available, clip(**changes), random)[1] for _ in range(count)]


@pytest.mark.parametrize(
    ("available", "spans"), [(16, {15}), (17, {16}), (32, {16}), (33, {16, 32}), (150, {16, 32})]
)
def test_clips_of_16_frames_span_16_or_32(available: int, spans: set[int]) -> None:
    times = np.array(drawn(available))
    assert set(times[:, -1] - times[:, 0]) == spans
    assert (np.diff(times) >= 1).all()
    assert times.min() == 0
    assert times.max() == available - 1


def test_both_spans_are_equally_likely_and_every_frame_between_them_occurs() -> None:
    times = np.array(drawn(150, 2000))
    spans = Counter((times[:, -1] - times[:, 0]).tolist())
    assert 900 < spans[16] < 1100
    wide = times[times[:, -1] - times[:, 0] == 32]
    inside = Counter((wide[:, 1:-1] - wide[:, :1]).ravel().tolist())
    assert set(inside) == set(range(1, 32))
    expected = len(wide) * 14 / 31
    assert all(0.8 * expected < count < 1.2 * expected for count in inside.values())


def test_three_frames_have_the_spans_of_the_paper() -> None:
    times = np.array(drawn(1000, frames=3))
    assert set(times[:, -1] - times[:, 0]) == {2, 4, 8, 16, 32}


def test_of_a_long_video_a_window_counts() -> None:
    random = np.random.default_rng(0)
    settings = clip(longest_video=40)
    wheres, all_times = [], []
    for _ in range(500):
        where, times, usable = random_times(60, settings, random)
        assert usable == 40
        assert len({a - b for a, b in zip(where, times, strict=True)}) == 1  # one offset
        wheres += where
        all_times += times
    assert max(all_times) == 39
    assert (min(wheres), max(wheres)) == (0, 59)


def test_times_count_intervals() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        where, times, usable = random_times(100, clip(frame_interval=3), random)
        assert usable == 34
        assert where == [3 * time for time in times]
    where, times, usable = random_times(20, clip(frame_interval=3), random)  # too short for 3
    assert where == times
    assert usable == 20


def test_batches_hold_the_times_of_their_pictures(tmp_path: Path) -> None:
    for name, count in {"a": 50, "b": 20}.items():
        (tmp_path / name).mkdir()
        for k in range(count):
            frame = torch.full((3, 32, 32), k, dtype=torch.uint8)
            write_image(tmp_path / name / f"{k:06d}.png", frame)
    data = DataConfig(folder=str(tmp_path), images_per_clip=0, flip=True, workers=0)
    batches = endless_batches(
        data, clip(), batch_size=4, seed=0, rank=0, world_size=1, first_step=0
    )
    batch = next(batches)
    shown = ((batch["videos"].amax((2, 3, 4)) + 1) * 127.5).round()
    assert torch.equal(shown, batch["times"])
    assert batch["times"].dtype == torch.float32
    assert sorted(set(batch["available"].tolist())) == [20, 50]
    batches.close()


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"longest_span": 14}, "clip.longest_span"), ({"longest_video": 15}, "clip.longest_video")],
)
def test_times_that_no_clip_fits_are_an_error(changes: dict[str, int], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        clip(**changes)


def test_videos_too_short_are_left_out_or_one_error(tmp_path: Path) -> None:
    for name, count in {"a": 15, "b": 16}.items():
        (tmp_path / name).mkdir()
        for k in range(count):
            write_image(tmp_path / name / f"{k}.png", torch.zeros(3, 32, 32, dtype=torch.uint8))
    assert ClipDataset(DataConfig(folder=str(tmp_path), images_per_clip=0), clip()).skipped == 1
    folder = tmp_path / "only"
    folder.mkdir()
    (tmp_path / "a").rename(folder / "a")
    with pytest.raises(ValueError, match="none of its 1 videos has the 16 frames"):
        ClipDataset(DataConfig(folder=str(folder), images_per_clip=0), clip())
