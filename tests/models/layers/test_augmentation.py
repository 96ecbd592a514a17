"""Augmentation of clips: known results, what each transform does, and how often it happens."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.augmentation import SYMLET_6, Augmentation, Draws, move, resample

PLACE = {"shift": 2, "fine_shift": 2}  # draws of several numbers
ROTATIONS = {"quarter_turns", "first_rotation", "second_rotation"}


def draws(count: int, **given: float | list[float]) -> Draws:
    """The same transform for all clips; what is not given is the identity."""
    values = {}
    for field in fields(Draws):
        shape = (count, 2) if field.name in PLACE else (count,)
        value = torch.tensor(given.pop(field.name, 0.0), dtype=torch.float64)
        values[field.name] = value.expand(shape)
    assert not given
    return Draws(**values)


def smooth_clip(height: int = 32, width: int = 32, frames: int = 2, seed: int = 0) -> Tensor:
    """One clip of unit variance whose details are several pixels wide."""
    noise = torch.randn(
        1, frames * 3, height, width, generator=torch.Generator().manual_seed(seed)
    ).double()
    far = torch.arange(-8.0, 9.0).double()
    bell = torch.exp(-((far / 2.5) ** 2))
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        kernel = bell.view(shape).expand(frames * 3, -1, -1, -1)
        pad = (0, 0, 8, 8) if shape[2] == -1 else (8, 8, 0, 0)
        noise = F.conv2d(F.pad(noise, pad, mode="reflect"), kernel, groups=frames * 3)
    return (noise / noise.std()).unflatten(1, (-1, 3)).float()


def apply(videos: Tensor, **given: float | list[float]) -> Tensor:
    return Augmentation().apply_draws(videos, draws(len(videos), **given))


def at_strength(strength: float, preset: str = "bgc") -> Augmentation:
    augmentation = Augmentation(preset)  # type: ignore[arg-type]
    augmentation.strength.fill_(strength)
    return augmentation


@pytest.mark.parametrize(
    ("level", "pixels", "mean", "deviation"),
    [
        (0.7, [2.803399, 0.262985, 0.570251], -0.096818, 1.105141),
        (0.3, [0.412686, -0.723950, 0.483975], -0.060008, 0.582887),
    ],
)
def test_all_transforms_together_give_the_known_result(
    level: float, pixels: list[float], mean: float, deviation: float
) -> None:
    """Numbers of the reference (StyleGAN2-ADA, as StyleGAN-V uses it), with fixed draws."""
    even = 2 * level - 1
    normal = torch.erfinv(torch.tensor(even, dtype=torch.float64)).item()
    fixed = draws(
        2,
        mirrored=math.floor(2 * level),
        quarter_turns=math.floor(4 * level),
        shift=even / 8,
        scale=0.2 * normal,
        first_rotation=even * math.pi,
        stretch=0.2 * normal,
        fine_shift=normal / 8,
        brightness=0.2 * normal,
        contrast=0.5 * normal,
        negative=math.floor(2 * level),
        hue=even * math.pi,
        saturation=normal,
    )
    noise = np.random.RandomState(4).standard_normal((2, 6, 32, 32)).astype(np.float32)
    output = Augmentation().apply_draws(torch.from_numpy(noise).unflatten(1, (2, 3)), fixed)
    torch.testing.assert_close(
        output.flatten(1, 2)[0, :3, 5, 7], torch.tensor(pixels), rtol=0, atol=2e-5
    )
    assert output.mean().item() == pytest.approx(mean, abs=2e-6)
    assert output.std().item() == pytest.approx(deviation, abs=2e-6)


def test_without_strength_clips_come_back_as_they_are() -> None:
    videos = smooth_clip()
    torch.testing.assert_close(at_strength(0.0)(videos), videos, rtol=0, atol=1e-6)


def test_a_clip_that_stays_beside_one_that_moves_loses_nothing() -> None:
    """Then the filters pass over both: 9e-5 on white noise, 5e-6 on smooth images."""
    torch.manual_seed(0)
    white, smooth = torch.randn(1, 2, 3, 32, 32), smooth_clip()
    for clip, bound in ((white, 1e-4), (smooth, 1e-5)):
        both = draws(2)
        both = replace(both, scale=torch.tensor([0.0, 0.3]).double())
        output = Augmentation().apply_draws(torch.cat([clip, smooth]), both)
        assert 0 < (output[0] - clip[0]).abs().max() < bound
        assert (output[1] - smooth[0]).abs().max() > 0.1


def test_whole_pixels_shift_the_reflected_image_exactly() -> None:
    videos = smooth_clip(height=32, width=24)
    output = apply(videos, shift=[3 / 24 + 0.01, -4 / 32 - 0.01])  # rounded to 3 right, 4 up
    wide = F.pad(videos.flatten(1, 2), (4, 4, 4, 4), mode="reflect")
    expected = wide[..., 8:40, 1:25].unflatten(1, (-1, 3))
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-5)


def test_a_fine_shift_moves_by_parts_of_pixels() -> None:
    videos = smooth_clip()
    once, twice = apply(videos, fine_shift=[0.5 / 32, 0.0]), videos
    once = apply(once, fine_shift=[0.5 / 32, 0.0])
    expected = apply(twice, fine_shift=[1 / 32, 0.0])
    assert (once - expected).abs()[..., 8:-8].mean() < 0.01
    torch.testing.assert_close(expected[..., 1:], videos[..., :-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mirrored": 1}, lambda video: video.flip(-1)),
        ({"quarter_turns": 1}, lambda video: video.rot90(1, (-2, -1))),
        ({"quarter_turns": 2}, lambda video: video.rot90(2, (-2, -1))),
        ({"quarter_turns": 3}, lambda video: video.rot90(3, (-2, -1))),
        ({"first_rotation": math.pi / 2}, lambda video: video.rot90(1, (-2, -1))),
        ({"second_rotation": -math.pi / 2}, lambda video: video.rot90(3, (-2, -1))),
    ],
)
def test_flips_and_turns_are_those_of_the_array(given: dict[str, float], expected) -> None:
    """Only nearly so, for the wavelet is not symmetric."""
    videos = smooth_clip()
    error = (apply(videos, **given) - expected(videos)).abs()
    assert error.mean() < 0.05
    assert (videos - expected(videos)).abs().mean() > 0.5


@pytest.mark.parametrize(
    ("given", "columns", "rows"),
    [({"scale": 1.0}, 2, 2), ({"scale": -1.0}, 0.5, 0.5), ({"stretch": 1.0}, 2, 0.5)],
)
def test_scaling_magnifies_about_the_centre(
    given: dict[str, float], columns: float, rows: float
) -> None:
    """A slope becomes flatter by the magnification, and the centre keeps its value."""
    place = (torch.arange(32.0) - 15.5) / 16
    slopes = torch.stack([place.expand(32, 32), place[:, None].expand(32, 32), torch.zeros(32, 32)])
    output = apply(slopes[None, None], **given)[0, 0]
    inner = slice(14, 18)  # whose places lie inside of the image
    torch.testing.assert_close(
        output[:2, inner, inner],
        torch.stack([slopes[0] / columns, slopes[1] / rows])[:, inner, inner],
        rtol=0,
        atol=0.03 / min(columns, rows),
    )


def test_colours_change_as_their_names_say() -> None:
    videos = smooth_clip()
    mean = videos.mean(2, keepdim=True)
    near = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(apply(videos, brightness=0.3), videos + 0.3, **near)
    torch.testing.assert_close(apply(videos, contrast=-1.0), videos / 2, **near)
    torch.testing.assert_close(apply(videos, negative=1), videos - 2 * mean, **near)
    torch.testing.assert_close(apply(videos, saturation=1.0), mean + 2 * (videos - mean), **near)
    turned = apply(videos, hue=2 * math.pi / 3)
    torch.testing.assert_close(turned, videos.roll(1, dims=2), **near)  # red becomes green
    # In this order: brightness is scaled by contrast.
    both = apply(videos, brightness=0.3, contrast=1.0)
    torch.testing.assert_close(both, 2 * videos + 0.6, **near)


def test_all_frames_of_a_clip_change_alike_and_clips_differ() -> None:
    torch.manual_seed(0)
    frame = smooth_clip(frames=1)
    videos = frame.expand(3, 4, -1, -1, -1)
    output = at_strength(1.0)(videos)
    assert torch.equal(output, output[:, :1].expand_as(output))
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (output[one] - output[other]).abs().mean() > 0.1


@pytest.mark.parametrize("strength", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("preset", ["bgc", "bgc_noro"])
def test_each_transform_happens_as_often_as_the_strength_says(preset: str, strength: float) -> None:
    torch.manual_seed(0)
    count = 20_000
    drawn = at_strength(strength, preset).draw(count)
    chance = min(strength, 1.0)
    rotation = 1 - math.sqrt(1 - chance)
    expected = dict.fromkeys((field.name for field in fields(Draws)), chance)
    expected |= {"mirrored": chance / 2, "negative": chance / 2, "quarter_turns": 0.75 * chance}
    expected |= {"first_rotation": rotation, "second_rotation": rotation}
    if preset == "bgc_noro":
        expected |= dict.fromkeys(ROTATIONS, 0.0)
    for name, share in expected.items():
        values = getattr(drawn, name).view(count, -1)
        assert (values != 0).all(1).double().mean().item() == pytest.approx(share, abs=0.015), name
        assert ((values != 0).any(1) == (values != 0).all(1)).all(), name  # both or neither


def test_what_is_drawn_has_the_stated_spread() -> None:
    torch.manual_seed(0)
    drawn = at_strength(1.0).draw(50_000)
    deviations = {"scale": 0.2, "stretch": 0.2, "fine_shift": 1 / 8, "brightness": 0.2}
    deviations |= {"contrast": 0.5, "saturation": 1.0, "shift": 1 / 8 / math.sqrt(3)}
    deviations |= dict.fromkeys(
        ("first_rotation", "second_rotation", "hue"), math.pi / math.sqrt(3)
    )
    for name, deviation in deviations.items():
        values = getattr(drawn, name)
        assert values.mean().item() == pytest.approx(0, abs=0.02 * deviation), name
        assert values.std().item() == pytest.approx(deviation, rel=0.02), name
    assert drawn.shift.abs().max() <= 1 / 8
    assert set(drawn.quarter_turns.tolist()) == {0, 1, 2, 3}


def test_the_global_generator_decides() -> None:
    videos, augmentation = smooth_clip().expand(2, -1, -1, -1, -1), at_strength(0.8)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(augmentation(videos))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_filter_of_twice_the_resolution_is_that_of_the_definition() -> None:
    """Zeros between the pixels, then a convolution; and a correlation, then every second pixel."""
    torch.manual_seed(0)
    images, taps = torch.randn(1, 2, 7, 9).double(), torch.tensor(SYMLET_6).double()
    wide = images.new_zeros(1, 2, 14, 18)
    wide[..., ::2, ::2] = images
    kernel = torch.outer(taps, taps).expand(2, 1, 12, 12)
    fine = F.conv2d(F.pad(wide, (6, 5, 6, 5)), 4 * kernel.flip(2, 3), groups=2)
    torch.testing.assert_close(resample(images, taps, twice=True), fine)
    coarse = F.conv2d(fine, kernel, groups=2)[..., ::2, ::2]
    torch.testing.assert_close(resample(fine, taps, twice=False), coarse)


def test_derivatives_pass_the_check_by_differences() -> None:
    fixed = draws(1, scale=0.4, first_rotation=0.7, fine_shift=0.1, hue=1.0, saturation=0.5)
    torch.manual_seed(0)
    videos = torch.randn(1, 1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    augmentation = Augmentation().double()

    def curved(given: Tensor) -> Tensor:
        return augmentation.apply_draws(given, fixed).sin().sum()

    assert torch.autograd.gradcheck(curved, (videos,), fast_mode=True)
    assert torch.autograd.gradgradcheck(curved, (videos,), fast_mode=True)


def test_far_places_lie_in_at_most_one_reflection() -> None:
    """Margins end at the size of the image; farther places are black."""
    ones = torch.ones(1, 1, 16, 16)
    places = torch.diag(torch.tensor([6.0, 6.0, 1.0])).double()[None]
    moved = move(ones, places, torch.tensor(SYMLET_6))
    assert moved[0, 0, 0, 0].abs() < 1e-3
    assert moved[0, 0, 8, 8] == pytest.approx(1, abs=0.02)


def test_it_stays_exact_under_autocast() -> None:
    videos = smooth_clip()
    exact = apply(videos, first_rotation=0.5, hue=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        output = apply(videos, first_rotation=0.5, hue=0.5)
        small = apply(videos.bfloat16(), first_rotation=0.5, hue=0.5)
    assert output.dtype == small.dtype == torch.float32
    assert torch.equal(output, exact)


def test_signs_of_outputs_are_counted_and_saved() -> None:
    augmentation = Augmentation()
    augmentation.record(torch.tensor([0.5, -2.0, 3.0]))
    augmentation.record(torch.tensor([1.0]))
    state = augmentation.state_dict()
    assert {name: value.item() for name, value in state.items()} == {
        "strength": 0.0,
        "sign_sum": 2.0,
        "sign_count": 4.0,
        "clips": 0.0,
    }


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown augmentation 'noro'; .*bgc, bgc_noro"):
        Augmentation("noro")  # type: ignore[arg-type]
