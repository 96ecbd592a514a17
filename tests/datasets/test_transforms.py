"""Pixels change form without changing what they show."""

from __future__ import annotations

import pytest
import torch

from datasets.transforms import flip, resize_centre_crop, to_float, to_uint8


def test_every_byte_survives_the_way_to_floats_and_back() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = to_float(bytes_)
    assert floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_uint8(floats), bytes_)


def test_floats_are_rounded_and_clamped_and_left_alone() -> None:
    floats = torch.tensor([-3.0, -1.0, 0.0039, 1.0, 7.0])
    assert to_uint8(floats).tolist() == [0, 0, 128, 255, 255]
    assert floats.tolist()[0] == -3.0
    assert to_float(floats)[0] != floats[0] == -3.0


def test_a_frame_of_the_right_size_is_not_touched() -> None:
    frames = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(resize_centre_crop(frames, 32), frames)
    wide = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    assert torch.equal(resize_centre_crop(wide, 32), wide[..., 8:40])


@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (97, 101), (20, 31)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_centre_stays_in_the_centre(shape: tuple[int, int], dtype: torch.dtype) -> None:
    frames = torch.zeros(1, 3, *shape, dtype=dtype)
    height, width = shape
    frames[..., height // 2 - 3 : (height + 1) // 2 + 3, width // 2 - 3 : (width + 1) // 2 + 3] = 1
    frames = frames * 200 if dtype == torch.uint8 else frames
    small = resize_centre_crop(frames, 32).float()
    assert small.shape == (1, 3, 32, 32)
    if dtype == torch.float32:
        assert small.amax() <= frames.max()
    half_a_pixel = 16 / min(shape)  # where an odd number of columns is cut off
    place = torch.arange(32.0)
    for axis in (2, 3):
        mass = small[0, 0].sum(3 - axis)
        assert (mass * place).sum() / mass.sum() == pytest.approx(15.5, abs=half_a_pixel + 0.1)


def test_shrinking_averages_fine_stripes() -> None:
    stripes = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    stripes[..., ::2] = 200
    inside = resize_centre_crop(stripes, 32)[..., 2:-2].float()
    assert (inside - 100).abs().max() <= 2


def test_a_flip_undoes_itself() -> None:
    frames = torch.randn(2, 3, 4, 5)
    assert torch.equal(flip(flip(frames)), frames)
    assert torch.equal(flip(frames)[..., 0], frames[..., -1])
