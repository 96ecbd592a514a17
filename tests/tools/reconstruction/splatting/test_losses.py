"""The losses of the fit: zero where they should be, blind where they should be."""

from __future__ import annotations

import math

import pytest
import torch

from tools.reconstruction.splatting import losses


def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two pictures and a mask that leaves out the left third."""
    torch.manual_seed(0)
    mask = torch.ones(20, 24, dtype=torch.bool)
    mask[:, :8] = False
    return torch.rand(20, 24, 3), torch.rand(20, 24, 3), mask


@pytest.mark.parametrize("loss", [losses.colour_error, losses.structure_error])
def test_equal_pictures_cost_nothing_and_masked_pixels_never_count(loss) -> None:
    one, other, mask = pictures()
    assert float(loss(one, one, mask)) == pytest.approx(0, abs=1e-6)
    assert float(loss(one, other, mask)) > 0.1
    changed = one.clone()
    changed[:, :8] = 5.0
    assert float(loss(changed, one, mask)) == pytest.approx(0, abs=1e-6)
    assert torch.equal(loss(changed, other, mask), loss(one, other, mask))


def test_psnr_of_a_known_error() -> None:
    one, _, mask = pictures()
    assert float(losses.psnr(one + 0.1, one, mask)) == pytest.approx(20, abs=1e-3)
    assert float(losses.psnr(one, one, mask)) == pytest.approx(100)


def test_ssim_equals_its_definition_in_the_middle_of_a_picture() -> None:
    one, other, _ = pictures()
    places = torch.arange(11.0) - 5
    line = torch.exp(-places.square() / 4.5)
    window = torch.outer(line, line) / line.sum() ** 2
    expected = 0.0
    for channel in range(3):
        x, y = one[3:14, 4:15, channel], other[3:14, 4:15, channel]
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        both = (window * (x - mx) * (y - my)).sum()
        top = (2 * mx * my + 1e-4) * (2 * both + 9e-4)
        expected += float(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))) / 3
    assert float(losses.ssim_map(one, other)[8, 9]) == pytest.approx(expected, abs=1e-4)


def test_small_pictures_have_an_ssim_too() -> None:
    one = torch.rand(4, 5, 3)
    torch.testing.assert_close(losses.ssim_map(one, one), torch.ones(4, 5))


def test_inverse_depth_does_not_depend_on_the_unit_and_skips_the_unknown() -> None:
    depth, target = torch.full((4, 4), 2.0), torch.full((4, 4), 4.0)
    everywhere = torch.ones(4, 4, dtype=torch.bool)
    value = losses.inverse_depth_error(depth, target, everywhere, 4.0)
    assert float(value) == pytest.approx(4 / 2 - 4 / 4)
    again = losses.inverse_depth_error(10 * depth, 10 * target, everywhere, 40.0)
    assert float(again) == pytest.approx(float(value))
    target[:2] = 0
    depth[3] = 0
    assert float(losses.inverse_depth_error(depth, target, everywhere, 4.0)) == pytest.approx(1.0)
    nothing = torch.zeros_like(everywhere)
    assert float(losses.inverse_depth_error(depth, target, nothing, 4.0)) == 0


def test_the_pattern_of_depth_is_blind_to_scale_and_shift() -> None:
    torch.manual_seed(0)
    depth, everywhere = torch.rand(6, 6) + 1, torch.ones(6, 6, dtype=torch.bool)
    assert float(losses.pattern_error(3 * depth + 2, depth, everywhere)) == pytest.approx(
        0, abs=1e-5
    )
    assert float(losses.pattern_error(5 - depth, depth, everywhere)) == pytest.approx(2, abs=1e-5)
    assert float(losses.pattern_error(depth, 0 * depth, everywhere)) == 0


def test_total_variation_counts_steps_at_the_chosen_pixels() -> None:
    values, where = torch.zeros(4, 5, 2), torch.zeros(4, 5, dtype=torch.bool)
    values[:, 3:] = 1
    assert float(losses.total_variation(values, where)) == 0
    where[1, 3] = True  # its four neighbours: one step among them
    assert float(losses.total_variation(values, where)) == pytest.approx(1 / 4)


def test_every_loss_has_finite_gradients() -> None:
    one, other, mask = pictures()
    depth = torch.zeros(20, 24, requires_grad=True)
    picture = one.clone().requires_grad_()
    total = losses.colour_error(picture, other, mask) + losses.structure_error(picture, one, mask)
    total = total + losses.inverse_depth_error(depth, other[..., 0], mask, 1.0)
    total = total + losses.pattern_error(depth, other[..., 0], mask)
    total = total + losses.total_variation(depth[..., None], ~mask)
    total.backward()
    assert torch.isfinite(picture.grad).all()
    assert depth.grad is None or torch.isfinite(depth.grad).all()
    assert not math.isnan(float(total.detach()))
