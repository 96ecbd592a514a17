"""The choice of clips and frames is a function of seed and name; pixels are prepared alike."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.transforms import resize_centre_crop
from tools.metrics.clips import (
    choose_videos,
    clip_windows,
    frame_indices,
    frame_shares,
    prepare,
)
from tools.metrics.protocol import Protocol

NAMES = [f"v{k}" for k in range(40)]


def test_videos_come_in_natural_order_whatever_order_they_are_given_in() -> None:
    assert choose_videos(["frame10", "frame9", "frame1"], 0, "random", 0) == [
        *("frame1", "frame9", "frame10")
    ]
    assert choose_videos(["frame10", "frame9", "frame1"], 2, "first", 0) == ["frame1", "frame9"]
    kept = choose_videos(NAMES, 12, "random", 3)
    assert kept == choose_videos(NAMES[::-1], 12, "random", 3)
    assert kept == sorted(kept, key=lambda name: int(name[1:]))
    assert len(kept) == 12
    assert kept != choose_videos(NAMES, 12, "random", 4)


def test_a_further_video_takes_the_place_of_one_other_at_most() -> None:
    kept = set(choose_videos(NAMES, 12, "random", 0))
    for further in ("a", "b", "c", "d"):
        assert len(kept - set(choose_videos([*NAMES, further], 12, "random", 0))) <= 1
        assert len(choose_videos([*NAMES, further], 12, "random", 0)) == 12


@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("offset", ["random", "start"])
def test_a_video_of_just_the_right_length_is_usable(stride: int, offset: str) -> None:
    span = 15 * stride + 1
    expected = [list(range(0, span, stride))]
    assert clip_windows("v", span, 16, stride, offset, 1, 0) == expected
    assert clip_windows("v", span - 1, 16, stride, offset, 1, 0) == []


def test_the_largest_offset_reaches_the_last_frame() -> None:
    ends = [
        clip_windows(name, 50, 16, 3, "random", 1, seed)[0] for name in NAMES for seed in range(5)
    ]
    assert {window[0] for window in ends} == set(range(5))  # 50 - 46 + 1 starts, all of them
    assert max(window[-1] for window in ends) == 49
    assert all(np.diff(window).tolist() == [3] * 15 for window in ends)


def test_a_start_is_the_hash_of_seed_and_name() -> None:
    # Written out, so that no version of a library can move the clips without being seen.
    digest = hashlib.sha256(b"7/clip/0/col/00012").digest()
    start = int.from_bytes(digest[:8], "big") % (200 - 46 + 1)
    assert clip_windows("col/00012", 200, 16, 3, "random", 1, 7)[0][0] == start


def test_more_clips_of_a_video_keep_the_first_and_differ() -> None:
    one = clip_windows("v", 60, 16, 1, "random", 1, 0)
    four = clip_windows("v", 60, 16, 1, "random", 4, 0)
    assert one[0] in four
    starts = [window[0] for window in four]
    assert starts == sorted(set(starts))
    assert len(starts) == 4
    assert len(clip_windows("v", 18, 16, 1, "random", 10, 0)) == 3  # no start twice
    assert [w[0] for w in clip_windows("v", 40, 16, 1, "start", 9, 0)] == [0, 16]


def test_frames_are_shared_equally_and_short_videos_leave_theirs_to_others() -> None:
    assert frame_shares([5, 9, 2], 0, "random") == [5, 9, 2]
    assert frame_shares([5, 9, 2], 16, "random") == [5, 9, 2]
    assert frame_shares([10, 100, 100, 3], 40, "random") == [10, 13, 13, 3]
    counts = [1, 7, 30, 2, 18, 400]
    for limit in range(6, sum(counts)):
        shares = frame_shares(counts, limit, "random")
        share = max(shares)
        assert shares == [min(count, share) for count in counts]
        assert sum(shares) <= limit < sum(min(count, share + 1) for count in counts)


def test_the_first_frames_are_those_of_the_first_videos() -> None:
    assert frame_shares([5, 9, 2], 7, "first") == [5, 2, 0]
    assert frame_indices("v", 9, 2, "first", 0) == [0, 1]


def test_a_larger_share_of_frames_keeps_those_of_a_smaller_one() -> None:
    chosen = [set(frame_indices("v", 30, share, "random", 0)) for share in range(31)]
    assert [len(each) for each in chosen] == list(range(31))
    assert all(small < large for small, large in pairwise(chosen))
    assert chosen[30] == set(range(30))
    assert frame_indices("v", 30, 5, "random", 0) != frame_indices("w", 30, 5, "random", 0)
    assert frame_indices("v", 30, 5, "random", 0) == sorted(chosen[5])


def test_every_frame_is_chosen_equally_often() -> None:
    hits = np.zeros(20)
    for k in range(4000):
        hits[frame_indices(f"video{k}", 20, 5, "random", 0)] += 1
    # 1000 expected of each, standard deviation 27
    assert np.abs(hits - 1000).max() < 5 * 27


def smooth(height: int, width: int) -> torch.Tensor:
    """Two frames with the frequencies of a picture, not of noise."""
    small = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 255
    return (
        torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic")
        .clamp(0, 255)
        .to(torch.uint8)
    )


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (48, 40)])
def test_preparation_agrees_with_pillow(size: tuple[int, int]) -> None:
    frames = smooth(*size)
    for resize in ("squeeze", "crop"):
        ours = prepare(frames, Protocol(frame_size=64, resize=resize))
        for frame, mine in zip(frames, ours, strict=True):
            image = Image.fromarray(frame.permute(1, 2, 0).numpy())
            if resize == "crop":
                side = min(size)
                top, left = (size[0] - side) // 2, (size[1] - side) // 2
                image = image.crop((left, top, left + side, top + side))
            theirs = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
            difference = np.abs(mine.permute(1, 2, 0).numpy().astype(int) - theirs)
            assert difference.max() <= 1
    assert ours.dtype == torch.uint8
    assert ours.shape == (2, 3, 64, 64)
    training = resize_centre_crop(frames, 64)
    assert (ours.int() - training.int()).abs().max() <= 1


def test_frames_of_the_right_size_stay_as_they_are() -> None:
    frames = smooth(64, 64)
    assert torch.equal(prepare(frames, Protocol(frame_size=64)), frames)
    assert torch.equal(prepare(frames, Protocol(frame_size=0)), frames)
    wide = smooth(64, 80)
    assert torch.equal(prepare(wide, Protocol(frame_size=64)), wide[..., 8:72])
    assert torch.equal(prepare(wide, Protocol(frame_size=0)), wide)


def test_antialiasing_can_be_switched_off() -> None:
    noise = torch.randint(256, (1, 3, 256, 256), dtype=torch.uint8, generator=torch.manual_seed(0))
    plain = prepare(noise, Protocol(frame_size=32, antialias=False)).float()
    smoothed = prepare(noise, Protocol(frame_size=32)).float()
    assert smoothed.std() < 15  # an average over many of them
    assert plain.std() > 40  # of a deviation of 74 before


def test_pixels_do_not_depend_on_how_a_reader_lays_them_out() -> None:
    frames = smooth(90, 120)
    colours_last = frames.contiguous(memory_format=torch.channels_last)
    protocol = Protocol(frame_size=64)
    assert torch.equal(prepare(frames, protocol), prepare(colours_last, protocol))
    one_by_one = [prepare(frame[None], protocol)[0] for frame in frames]
    assert torch.equal(prepare(frames, protocol), torch.stack(one_by_one))
