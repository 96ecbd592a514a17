"""Views of a clip: the same change for every frame, a function of the seed, published values."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from tools.diagnosis.augment import (
    GREY,
    Strong,
    normalise,
    plain_view,
    strong_view,
    weak_view,
)

SIZE = 32
STEADY = sorted(set(get_args(Strong)) - {"compat"})


def picture(seed: int = 0, height: int = 48, width: int = 64) -> Tensor:
    """A smooth coloured picture (3, H, W) without symmetries."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 200 + 30
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth[0].round().to(torch.uint8)


def still(frames: int = 4) -> Tensor:
    return picture()[None].expand(frames, -1, -1, -1).contiguous()


@pytest.mark.parametrize("kind", ["area", "compat"])
def test_a_weak_view_of_a_still_clip_is_still(kind: str) -> None:
    for seed in range(20):
        view = weak_view(still(), SIZE, seed, kind)  # type: ignore[arg-type]
        assert view.shape == (4, 3, SIZE, SIZE)
        assert view.dtype == torch.uint8
        assert (view == view[:1]).all()


@pytest.mark.parametrize("kind", STEADY)
def test_a_strong_view_of_a_still_clip_is_still(kind: Strong) -> None:
    for seed in range(20):
        view = strong_view(still(), SIZE, seed, kind)
        assert view.shape == (4, 3, SIZE, SIZE)
        assert view.dtype == torch.uint8
        assert (view == view[:1]).all()


@pytest.mark.parametrize("kind", get_args(Strong))
def test_views_depend_on_their_seed_alone(kind: Strong) -> None:
    clip = still()
    before = torch.get_rng_state()
    views = [strong_view(clip, SIZE, seed, kind) for seed in range(12)]
    weak = [weak_view(clip, SIZE, seed) for seed in range(12)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert all(torch.equal(strong_view(clip, SIZE, k, kind), v) for k, v in enumerate(views))
    assert all(torch.equal(weak_view(clip, SIZE, k), v) for k, v in enumerate(weak))
    assert len({bytes(view.numpy().tobytes()) for view in views}) == 12
    assert len({bytes(view.numpy().tobytes()) for view in weak}) == 12
    assert torch.equal(clip, still())  # nothing works in place


def test_a_view_keeps_the_order_of_frames() -> None:
    clip = torch.stack([picture() // 4 + 40 * k for k in range(4)])
    for kind in ("endoscopy", "comatch"):
        for seed in range(10):
            means = strong_view(clip, SIZE, seed, kind).float().mean((1, 2, 3))
            assert (means.diff() > 0).all()


def test_the_strong_view_builds_upon_the_weak_view_of_its_seed() -> None:
    clip = still()
    for seed in range(20):
        weak, strong = weak_view(clip, SIZE, seed), strong_view(clip, SIZE, seed, "fixmatch")
        if (weak == strong).all(1).float().mean() > 0.3:  # the operations were mild, as some are
            return
    pytest.fail("no strong view resembles the weak view of its seed")


def test_a_weak_view_shows_half_of_the_picture_or_more() -> None:
    rows = torch.arange(64).float()
    ramp = torch.stack([rows.expand(64, 64), rows[:, None].expand(64, 64), torch.zeros(64, 64)])
    clip = (ramp * 2).to(torch.uint8)[None]
    mirrored = 0
    for seed in range(40):
        view = weak_view(clip, 64, seed)[0].float() / 2
        width = abs(float(view[0, :, -1].mean() - view[0, :, 0].mean())) + 1
        height = float(view[1, -1].mean() - view[1, 0].mean()) + 1
        assert 0.45 < width * height / 64**2 < 1.05
        assert height > 0  # never upside down
        mirrored += int(view[0, :, -1].mean() < view[0, :, 0].mean())
    assert 8 < mirrored < 32


def test_colours_of_a_disease_stay() -> None:
    red = torch.tensor([200, 60, 60], dtype=torch.uint8)[:, None, None].expand(2, 3, SIZE, SIZE)
    for seed in range(20):
        view = strong_view(red.contiguous(), SIZE, seed, "endoscopy").float()
        erased = (view == GREY).all(1)
        coloured = (view.amax(1) > 60) & ~erased  # and not the black beyond the border
        assert coloured.float().mean() > 0.3
        assert (view[:, 0] > view[:, 1])[coloured].all()
        assert ((view[:, 1] - view[:, 2]).abs() <= 2)[coloured].all()


@pytest.mark.parametrize("kind", ["endoscopy", "fixmatch"])
def test_one_rectangle_is_erased_in_all_frames(kind: Strong) -> None:
    noise = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8)
    shares = []
    for seed in range(20):
        view = strong_view(noise, SIZE, seed, kind)
        grey = (view == GREY).all(1)
        shares.append(float(grey.all(0).float().mean()))
    assert min(shares) > 0.01
    assert sum(shares) / len(shares) < 0.3


def test_the_published_view_has_a_moving_square_or_nothing_at_all() -> None:
    clip = picture(height=SIZE, width=SIZE)[None].repeat(4, 1, 1, 1)
    plain = moving = 0
    for seed in range(40):
        weak, strong = (
            weak_view(clip, SIZE, seed, "compat"),
            strong_view(clip, SIZE, seed, "compat"),
        )
        if (weak.int() - strong.int()).abs().max() <= 2:  # but for the round trip through bytes
            plain += 1
        else:
            moving += int((strong != strong[:1]).any())
    assert 3 <= plain <= 20  # a quarter
    assert moving >= 40 - plain - 2


def test_normalised_pixels() -> None:
    clip = torch.tensor([0, 255, GREY], dtype=torch.uint8)
    expected = torch.tensor([-2.0, 0.55 / 0.225, (GREY / 255 - 0.45) / 0.225])
    assert torch.allclose(normalise(clip), expected, atol=1e-6)
    assert normalise(clip).dtype == torch.float32
    assert clip.dtype == torch.uint8
    assert abs(normalise(clip)[2]) < 0.01


def test_the_plain_view_is_the_square_in_the_middle() -> None:
    clip = torch.randint(0, 256, (2, 3, SIZE, 50), dtype=torch.uint8)
    assert torch.equal(plain_view(clip, SIZE), clip[..., 9:41])
    assert torch.equal(plain_view(clip, SIZE, "left"), clip[..., :SIZE])
    high = clip.transpose(2, 3)
    assert torch.equal(plain_view(high, SIZE), high[:, :, 9:41])
    assert torch.equal(plain_view(high, SIZE, "left"), high[:, :, :SIZE])
    assert plain_view(clip, 20).shape == (2, 3, 20, 20)
    assert plain_view(clip, 64).shape == (2, 3, 64, 64)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'strongest' is not one of"):
        strong_view(still(), SIZE, 0, "strongest")  # type: ignore[arg-type]
