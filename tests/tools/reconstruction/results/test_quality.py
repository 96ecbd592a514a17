"""Numbers that say how like two pictures or depth maps are."""

from __future__ import annotations

import numpy as np
import pytest

from tools.reconstruction.results.quality import (
    compare_depths,
    compare_pictures,
    held_out,
    psnr,
    ssim,
)

ALL = np.ones((32, 32), bool)


def random_picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.8, (32, 32, 3)).astype(np.float32)


def test_psnr_is_of_unmasked_pixels() -> None:
    truth = random_picture()
    picture = truth + np.float32(0.1)
    assert psnr(picture, truth, ALL) == pytest.approx(20, abs=1e-3)
    picture[:16] = 1 - truth[:16]
    mask = ALL.copy()
    mask[:16] = False
    assert psnr(picture, truth, mask) == pytest.approx(20, abs=1e-3)


def test_ssim_against_sums_over_windows() -> None:
    x, y = random_picture(0), random_picture(1)
    y = 0.5 * x + 0.5 * y
    place = np.arange(11) - 5
    line = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for row in range(22):
        for column in range(22):
            for colour in range(3):
                a = x[row : row + 11, column : column + 11, colour].astype(float)
                b = y[row : row + 11, column : column + 11, colour].astype(float)
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                shared = (window * (a - ma) * (b - mb)).sum()
                top = (2 * ma * mb + 0.01**2) * (2 * shared + 0.03**2)
                values.append(top / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2)))
    assert ssim(x, y, ALL) == pytest.approx(np.mean(values), abs=1e-6)
    assert ssim(x, x, ALL) == pytest.approx(1)


def test_ssim_leaves_windows_out_that_touch_the_mask() -> None:
    truth = random_picture()
    picture, mask = truth.copy(), ALL.copy()
    picture[:, :8], mask[:, :8] = 0, False
    assert ssim(picture, truth, mask) == pytest.approx(1)
    mask[:, 10::8] = False
    assert np.isnan(ssim(picture, truth, mask))


def test_pictures_are_averaged_and_lpips_is_left_out_without_weights() -> None:
    truth = np.stack([random_picture(0), random_picture(1)])
    offset = np.array([0.1, 0.01], np.float32)[:, None, None, None]
    quality = compare_pictures(truth + offset, truth, np.stack([ALL, ALL]), None)
    assert quality is not None
    assert quality.psnr == pytest.approx(30, abs=1e-2)
    assert (quality.lpips, quality.count) == (None, 2)
    assert compare_pictures(truth[:0], truth[:0], np.stack([ALL])[:0], None) is None


def test_depth_errors_are_relative_after_one_factor() -> None:
    truth = np.random.default_rng(0).uniform(1, 9, (2, 8, 8)).astype(np.float32)
    mask = np.ones((2, 8, 8), bool)
    found = compare_depths(truth / 7, truth, mask)
    assert found is not None
    assert found.relative == pytest.approx(0, abs=1e-6)
    assert found.alignment == "one factor for all frames"
    known = compare_depths(truth * 1.1, truth, mask, scale=1.0)
    assert known is not None
    assert known.relative == pytest.approx(0.1, abs=1e-5)
    assert known.within == 1
    broken = truth.copy()
    broken[0], mask[1, 0] = 0, False  # unknown, hidden
    partly = compare_depths(broken, truth, mask, scale=1.0)
    assert partly is not None
    assert partly.pixels == 56
    assert compare_depths(broken * 0, truth, mask) is None


@pytest.mark.parametrize(
    ("count", "chosen"), [(16, [4, 12]), (4, [1, 2]), (40, [4, 12, 20, 28, 36])]
)
def test_frames_for_the_test_lie_inside_the_clip(count: int, chosen: list[int]) -> None:
    assert held_out(count, 8) == chosen
    assert held_out(count, 0) == []


def test_too_few_frames_leave_nothing_to_test() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        held_out(3, 8)
