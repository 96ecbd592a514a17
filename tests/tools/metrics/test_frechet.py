"""The Frechet distance: closed forms, symmetries, and agreement with other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tools.metrics.frechet import Summary, distance


def normal(count: int, width: int, seed: int = 0) -> Tensor:
    """Correlated, with a decaying spectrum and a mean; float64."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=generator, dtype=torch.float64)
    values = torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixed
    return values / torch.arange(1, width + 1) ** 0.5 + 1


def moments(mean: Tensor, covariance: Tensor) -> Summary:
    return Summary.of_moments(mean.double(), covariance.double(), 100)


def between(first: Tensor, second: Tensor, ddof: int = 1) -> float:
    return distance(Summary.of(first, ddof), Summary.of(second, ddof))


def trace(values: Tensor, ddof: int = 1) -> float:
    return float(Summary.of(values, ddof).factor.square().sum())


def orthogonal(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def test_isotropic_normals() -> None:
    standard = moments(torch.zeros(4), torch.eye(4))
    assert distance(standard, moments(torch.ones(4), 4 * torch.eye(4))) == pytest.approx(8, 1e-12)


def test_diagonal_covariances() -> None:
    means = torch.tensor([[0.0, 1, 2], [1, -1, 5]])
    spreads = torch.tensor([[1.0, 4, 0], [9, 2, 3]])
    found = distance(*(moments(m, torch.diag(s)) for m, s in zip(means, spreads, strict=True)))
    roots = spreads.double().sqrt()
    expected = (means[0] - means[1]).square().sum() + (roots[0] - roots[1]).square().sum()
    assert found == pytest.approx(float(expected), 1e-9)


@pytest.mark.parametrize("count", [12, 60])  # below and above the width
def test_rotating_shifting_and_scaling_both_sides(count: int) -> None:
    first, second = normal(count, 20), normal(40, 20, seed=1)
    plain, turn = between(first, second), orthogonal(20)
    assert between(first @ turn, second @ turn) == pytest.approx(plain, 1e-9)
    assert between(first + 7, second + 7) == pytest.approx(plain, 1e-9)
    assert between(-3 * first, -3 * second) == pytest.approx(9 * plain, 1e-9)


def test_covariances_that_do_not_commute() -> None:
    first, second = torch.tensor([[2.0, 1], [1, 2]]), torch.diag(torch.tensor([1.0, 3]))
    root = math.sqrt(float((first @ second).trace()) + 2 * math.sqrt(3 * 3))
    found = distance(moments(torch.zeros(2), first), moments(torch.zeros(2), second))
    assert found == pytest.approx(4 + 4 - 2 * root, 1e-9)
    assert found == pytest.approx(0.5166852264521, 1e-9)


@pytest.mark.parametrize("count", [7, 30, 200])
def test_a_set_against_itself_moved_and_stretched(count: int) -> None:
    values = normal(count, 30)
    step = torch.arange(30.0).double()
    assert abs(between(values, values)) <= 1e-12 * trace(values)
    assert between(values, values + step) == pytest.approx(float(step.square().sum()), 1e-9)
    expected = 1.5**2 * (float(values.mean(0).square().sum()) + trace(values))
    assert between(values, 2.5 * values) == pytest.approx(expected, 1e-9)


def test_symmetry_order_and_triangle_inequality() -> None:
    a, b, c = normal(50, 8), normal(9, 8, seed=1), normal(6, 8, seed=2)
    assert between(a, b) == pytest.approx(between(b, a), 1e-12)
    assert between(a.flip(0), b) == pytest.approx(between(a, b), 1e-12)
    ab, bc, ac = (math.sqrt(between(*pair)) for pair in ((a, b), (b, c), (a, c)))
    assert ac <= ab + bc
    assert ab <= ac + bc
    assert bc <= ab + ac


@pytest.mark.parametrize("count", [5, 40])
def test_a_set_written_twice(count: int) -> None:
    values = normal(count, 12)
    twice = torch.cat([values, values])
    assert abs(between(values, twice, ddof=0)) <= 1e-12 * trace(values)
    expected = trace(values) * (1 - math.sqrt((2 * count - 2) / (2 * count - 1))) ** 2
    assert between(values, twice, ddof=1) == pytest.approx(expected, 1e-6)
    assert abs(between(values, twice) - expected) <= 1e-12 * trace(values)


def test_fewer_samples_than_dimensions() -> None:
    """16 samples in 400 dimensions, against the root of a matrix from eigenvalues."""
    values, other = normal(16, 400), normal(256, 400, seed=1)
    found = between(values, other)
    assert math.isfinite(found)
    root = _root(np.cov(values.numpy(), rowvar=False))
    inner = np.linalg.eigvalsh(root @ np.cov(other.numpy(), rowvar=False) @ root)
    expected = (
        float((values.mean(0) - other.mean(0)).square().sum())
        + trace(values)
        + trace(other)
        - 2 * np.sqrt(inner.clip(min=0)).sum()
    )
    assert found == pytest.approx(expected, 1e-4)


def test_the_branches_for_few_and_many_samples_agree() -> None:
    """The same covariance from width and from width + 1 rows."""
    values, other = normal(21, 20), normal(30, 20, seed=1)
    centred = values - values.mean(0)
    same = torch.linalg.cholesky(centred.T @ centred).T  # 20 rows with the same products
    few = Summary(21, values.mean(0), same / math.sqrt(20))
    assert distance(few, Summary.of(other)) == pytest.approx(between(values, other), 1e-9)
    padded = torch.nn.functional.pad(values, (0, 5))  # 21 rows, 25 dimensions: not reduced
    wide = Summary.of(padded)
    assert wide.factor.shape == (21, 25)
    assert Summary.of(values).factor.shape == (20, 20)
    further = Summary.of(torch.nn.functional.pad(other, (0, 5)))
    assert distance(wide, further) == pytest.approx(between(values, other), 1e-9)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("count", "width"), [(40, 12), (9, 12), (500, 12)])
def test_mean_and_covariance_are_those_of_numpy(count: int, width: int, ddof: int) -> None:
    values = normal(count, width)
    summary = Summary.of(values, ddof)
    covariance = torch.from_numpy(np.cov(values.numpy(), rowvar=False, ddof=ddof))
    torch.testing.assert_close(summary.mean, values.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(summary.factor.T @ summary.factor, covariance)
    assert len(summary.factor) == min(count, width)
    assert summary.count == count


@pytest.mark.parametrize("block", [1, 7, 100, 2000])
@pytest.mark.parametrize("count", [2, 8, 9, 10, 2000])
def test_blocks_give_what_the_whole_gives(count: int, block: int) -> None:
    """Also with a mean a million times the spread, where sums of squares would fail."""
    values = normal(count, 8) + 1e6
    summary = Summary.of_blocks([values[:0], *values.split(block)], ddof=0)
    centred = (values - values.mean(0)) / math.sqrt(count)
    torch.testing.assert_close(summary.mean, values.mean(0), rtol=1e-14, atol=0)
    found = summary.factor.T @ summary.factor
    torch.testing.assert_close(found, centred.T @ centred, rtol=1e-8, atol=1e-8)
    assert len(summary.factor) <= 8


def test_blocks_may_reuse_their_memory() -> None:
    values = normal(100, 4)

    def blocks():
        memory = torch.empty(10, 4, dtype=torch.float64)
        for part in values.split(10):
            yield memory.copy_(part)

    assert abs(distance(Summary.of_blocks(blocks()), Summary.of(values))) < 1e-12


@pytest.mark.parametrize("count", [30, 400])
def test_foreign_statistics_give_the_same(count: int) -> None:
    values, other = normal(count, 50), normal(60, 50, seed=1)
    covariance = torch.from_numpy(np.cov(values.numpy(), rowvar=False))
    foreign = Summary.of_moments(values.mean(0), covariance, count)
    assert distance(foreign, Summary.of(other)) == pytest.approx(between(values, other), 1e-4)


def test_float32_features_are_taken_as_they_are() -> None:
    values = normal(30, 5).float()
    assert abs(distance(Summary.of(values), Summary.of(values.double()))) < 1e-12


def test_what_cannot_be_compared_is_an_error() -> None:
    values = normal(10, 4)
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 1"):
        Summary.of(values[:1])
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 0"):
        Summary.of(values[:0])
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 1"):
        Summary.of_blocks([values[:1]])
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 0"):
        Summary.of_blocks([])
    with pytest.raises(ValueError, match="widths 4 and 3 differ"):
        between(values, values[:, :3])
    with pytest.raises(ValueError, match="widths 4 and 3 differ"):
        Summary.of_blocks([values, values[:, :3]])
    with pytest.raises(ValueError, match=r"a matrix \(samples, width\) is needed, got \(10,\)"):
        Summary.of(values[:, 0])
    for wrong in (math.nan, math.inf):
        broken = values.clone()
        broken[7, 2] = wrong
        with pytest.raises(ValueError, match="in 1 of 10 samples, first in sample 7"):
            Summary.of(broken)


def test_foreign_statistics_must_be_a_covariance() -> None:
    mean = torch.zeros(2)
    with pytest.raises(ValueError, match=r"mean of 2 and covariance \(3, 3\) do not fit"):
        Summary.of_moments(mean, torch.eye(3), 5)
    with pytest.raises(ValueError, match="not symmetric"):
        Summary.of_moments(mean, torch.tensor([[1.0, 1], [0, 1]]), 5)
    with pytest.raises(ValueError, match="clearly negative"):
        Summary.of_moments(mean, torch.diag(torch.tensor([1.0, -1])), 5)


@pytest.mark.parametrize("count", [60, 300])
def test_agrees_with_torch_fidelity(count: int) -> None:
    """Its root of the product of singular covariances is good to 1e-4 only."""
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    values, other = normal(count, 64), normal(200, 64, seed=1)
    statistics = [metric.fid_features_to_statistics(features) for features in (values, other)]
    expected = metric.fid_statistics_to_metric(*statistics, verbose=False)
    found = between(values, other)
    tolerance = 1e-9 if count > 64 else 1e-4
    assert found == pytest.approx(expected["frechet_inception_distance"], tolerance)


@pytest.mark.parametrize("count", [60, 300])
def test_agrees_with_the_published_form(count: int) -> None:
    """Second moments divided by N and the root of the product, as StyleGAN-V and cd-fvd do."""
    linalg = pytest.importorskip("scipy.linalg")
    sides = [values.numpy() for values in (normal(count, 64), normal(200, 64, seed=1))]
    means = [side.mean(0) for side in sides]
    raw = [side.T @ side / len(side) for side in sides]
    first, second = (r - np.outer(m, m) for r, m in zip(raw, means, strict=True))
    root = linalg.sqrtm(first @ second).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(first + second - 2 * root)
    found = between(torch.from_numpy(sides[0]), torch.from_numpy(sides[1]), ddof=0)
    assert found == pytest.approx(expected, 1e-9 if count > 64 else 1e-4)


def _root(covariance: np.ndarray) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T
