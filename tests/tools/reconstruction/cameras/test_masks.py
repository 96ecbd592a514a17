"""Masks keep the picture and leave out what is no tissue."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets.image_io import write_image
from datasets.simulator import simulate_clip
from tools.reconstruction.cameras.masks import (
    automatic_masks,
    border_mask,
    highlights,
    overlay,
    read_user_masks,
)


def octagon(size: int = 64, cut: int = 20) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    edge = torch.minimum(rows, size - 1 - rows) + torch.minimum(columns, size - 1 - columns)
    return edge >= cut


def clip(inside: Tensor, frames: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = inside.shape
    video = torch.randint(60, 200, (frames, *size, 3), generator=generator)
    noise = torch.randint(0, 16, video.shape, generator=generator)
    return torch.where(inside[None, :, :, None], video, noise).to(torch.uint8)


def test_the_border_is_found_through_noise_and_without_writing_beside_the_picture() -> None:
    inside = octagon()
    video = clip(inside)
    video[:, 2:5, 2:8] = 250  # a date in the corner
    found = border_mask(video)
    assert not (found & ~inside).any()
    assert float(found.sum() / inside.sum()) > 0.9


def test_dark_tissue_inside_the_picture_stays() -> None:
    video = clip(octagon())
    video[:, 24:40, 24:40] = 3  # the far end of a tube
    assert border_mask(video)[24:40, 24:40].all()


def test_a_picture_without_border_is_used_whole() -> None:
    assert border_mask(clip(torch.ones(40, 56, dtype=torch.bool))).all()


def test_the_mask_of_simulated_clips_is_found() -> None:
    made = simulate_clip(2, frames=4, size=64)
    found = border_mask(torch.from_numpy(made.video))
    truth = torch.from_numpy(made.mask)
    assert float((found & ~truth).sum() / truth.sum()) < 0.01
    assert float((found & truth).sum() / truth.sum()) > 0.9


def test_a_large_picture_is_searched_in_steps() -> None:
    inside = octagon(640, 200)
    found = border_mask(clip(inside, 2))
    assert found.shape == (640, 640)
    assert not (found & ~inside).any()
    assert float(found.sum() / inside.sum()) > 0.9


def test_highlights_are_white_not_red() -> None:
    video = torch.full((2, 50, 50, 3), 120, dtype=torch.uint8)
    video[0, 10, 10] = 255
    video[1, 30:35, 30:35, 0] = 255  # saturated red tissue
    found = highlights(video)
    assert found[0, 9:12, 9:12].all()
    assert int(found[0].sum()) == 9
    assert not found[1].any()
    assert not automatic_masks(video)[0, 10, 10]


def drifting(speed: int) -> Tensor:
    """A soft texture that moves by some pixels a frame: (8, 64, 64, 3) uint8."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 16, 32, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")[0]
    frames = [texture[:, :, speed * k : speed * k + 64] for k in range(8)]
    return (torch.stack(frames) * 200).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_writing_over_a_moving_picture_is_left_out() -> None:
    moving = drifting(6)
    assert not overlay(moving).any()
    moving[:, 10:14, 40:60:2] = 250
    found = overlay(moving)
    assert found[10:14, 40:60].all()
    assert int(found.sum()) < 400
    assert not automatic_masks(moving)[:, 11, 45].any()


def test_a_still_scene_is_no_writing() -> None:
    still = drifting(0)
    still[:, 10:14, 40:60:2] = 250
    assert not overlay(still).any()


def test_black_frames_leave_nothing() -> None:
    assert not border_mask(torch.zeros(3, 20, 20, 3, dtype=torch.uint8)).any()


def draw(path: Path, hidden: Tensor) -> None:
    write_image(path, hidden.to(torch.uint8)[None].expand(3, -1, -1) * 255)


def test_white_of_a_users_mask_is_ignored(tmp_path: Path) -> None:
    hidden = torch.zeros(20, 30, dtype=torch.bool)
    hidden[5:9, 5:9] = True
    draw(tmp_path / "one.png", hidden)
    one = read_user_masks(tmp_path / "one.png", 4, 20, 30)
    assert one.shape == (4, 20, 30)
    assert torch.equal(one[3], ~hidden)
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in (10, 9):
        draw(folder / f"{number}.png", hidden if number == 10 else ~(~hidden))
    draw(folder / "9.png", hidden.flip(0))
    each = read_user_masks(folder, 2, 20, 30)
    assert torch.equal(each, torch.stack([~hidden.flip(0), ~hidden]))


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / "0.png", torch.zeros(20, 30, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 masks for 4 frames"):
        read_user_masks(tmp_path, 4, 20, 30)
    with pytest.raises(ValueError, match="the mask is 20 x 30, the frames are 30 x 20"):
        read_user_masks(tmp_path / "0.png", 4, 30, 20)
    draw(tmp_path / "0.png", torch.ones(20, 30, dtype=torch.bool))
    with pytest.raises(ValueError, match="hides the whole frame"):
        read_user_masks(tmp_path / "0.png", 4, 20, 30)
    with pytest.raises(FileNotFoundError, match="no such mask"):
        read_user_masks(tmp_path / "absent", 4, 20, 30)
