from __future__ import annotations

import pytest
import torch

from tools.metrics.jedi import jedi


def test_it_is_the_biased_squared_mmd_of_a_quadratic_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, generator=generator)
    y = torch.randn(4, 5, generator=generator) + 0.5

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return ((a.double() @ b.double().T / 5) ** 2).mean()

    expected = 100 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert jedi(x, y) == pytest.approx(float(expected), rel=1e-12)


def test_equal_sets_are_at_zero_and_order_does_not_matter() -> None:
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    assert jedi(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    assert jedi(x, 2 * x) == pytest.approx(jedi(2 * x, x))
    assert jedi(x, 2 * x) > 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.zeros(0, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 3), torch.zeros(2, 4)),
        (torch.zeros(2, 3), torch.full((2, 3), torch.nan)),
    ],
)
def test_bad_features_are_refused(first: torch.Tensor, second: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="JEDi"):
        jedi(first, second)
