"""Deviations, floors and limits: against slow versions, known spreads and known limits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tools.metrics import resampling, uncertainty
from tools.metrics.features import Features
from tools.metrics.frechet import Summary, distance
from tools.metrics.resampling import Side, weighted_distances
from tools.metrics.uncertainty import (
    Floor,
    deviation_over_videos,
    extrapolate,
    floor,
    frechet_deviation,
    frechet_floor,
)


def videos(count: int, rows: int = 1, width: int = 6, mean: float = 0, seed: int = 0) -> Features:
    """Rows of one video have a part in common."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 1, width, generator=generator)
    own = torch.randn(count, rows, width, generator=generator)
    return features_of((common + own).flatten(0, 1) + mean, rows)


def features_of(values: Tensor, rows: int) -> Features:
    groups = torch.arange(len(values) // rows).repeat_interleave(rows)
    names = [f"video{k}" for k in range(len(values) // rows)]
    return Features({"features": values}, groups, names)


def frechet(real: Features, fake: Features) -> float:
    return distance(Summary.of(real.values), Summary.of(fake.values))


def repeated(features: Features, times: Tensor) -> Tensor:
    """The rows of a resample, one by one."""
    return features.values.repeat_interleave(times.long()[features.groups], dim=0)


def slow_distances(
    real: Features, fake: Features, times: tuple[Tensor, Tensor], ddof: int
) -> Tensor:
    pairs = zip(*times, strict=True)
    values = [
        distance(Summary.of(repeated(real, a), ddof), Summary.of(repeated(fake, b), ddof))
        for a, b in pairs
    ]
    return torch.tensor(values, dtype=torch.float64)


def drawn(count: int, resamples: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(count, (resamples, count), generator=generator)
    return torch.stack([torch.bincount(row, minlength=count) for row in picks]).double()


@pytest.fixture
def one_thread_after() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


SIZES = [
    # real videos, rows, fake videos, rows, width
    (30, 1, 20, 1, 60),  # fewer samples than dimensions
    (40, 3, 60, 2, 10),  # more, in short videos
    (12, 8, 15, 5, 10),  # more, in long videos
    (6, 1, 80, 5, 12),  # the two kinds together
]


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("way", ["products", "covariances"])
@pytest.mark.parametrize(("first", "rows", "second", "others", "width"), SIZES)
def test_weightings_are_repetitions(
    first: int,
    rows: int,
    second: int,
    others: int,
    width: int,
    way: str,
    ddof: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = videos(first, rows, width)
    fake = videos(second, others, width, mean=0.5, seed=1)
    times = drawn(first, 4, 0), drawn(second, 4, 1)
    monkeypatch.setattr(resampling, "_products_are_cheaper", lambda *_: way == "products")
    for name, value in {"BATCH": 3 * width**2, "BAND": 7, "HELD": 500, "ROWS": 16}.items():
        monkeypatch.setattr(resampling, name, value)  # several blocks of everything
    found = weighted_distances(Side(real), Side(fake), *times, ddof)
    torch.testing.assert_close(found, slow_distances(real, fake, times, ddof), rtol=1e-5, atol=0)


def test_the_cheaper_way_is_taken() -> None:
    few, many = Side(videos(20, 1, 100)), Side(videos(300, 1, 20))
    assert resampling._products_are_cheaper(few, few)
    assert not resampling._products_are_cheaper(many, many)


def test_dimensions_without_spread_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = (
        features_of(torch.nn.functional.pad(each.values, (0, 4), value=3), 1)
        for each in (videos(60), videos(50, seed=1))
    )
    times = drawn(60, 4, 0), drawn(50, 4, 1)
    monkeypatch.setattr(resampling, "_products_are_cheaper", lambda *_: False)
    found = weighted_distances(Side(real), Side(fake), *times, ddof=1)
    torch.testing.assert_close(found, slow_distances(real, fake, times, 1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("way", ["products", "covariances"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, 1e4 / 3])
def test_videos_without_any_spread_have_no_deviation(
    value: float, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "_products_are_cheaper", lambda *_: way == "products")
    real, fake = features_of(torch.full((8, 3), value), 1), features_of(torch.zeros(10, 3), 5)
    times = drawn(8, 5, 0), drawn(2, 5, 1)
    found = weighted_distances(Side(real), Side(fake), *times, ddof=1)
    expected = torch.full((5,), 3 * float(real.values[0, 0]) ** 2).double()
    torch.testing.assert_close(found, expected)
    assert frechet_deviation(real, fake).value == pytest.approx(0, abs=1e-9 * (1 + value**2))


@pytest.mark.parametrize(("rows", "width"), [(1, 60), (3, 6), (6, 6)])
def test_the_deviation_is_that_of_a_plain_bootstrap(rows: int, width: int) -> None:
    real, fake = videos(25, rows, width), videos(20, rows, width, mean=0.5, seed=1)
    found = frechet_deviation(real, fake, resamples=30, seed=4)
    generator = torch.Generator().manual_seed(4)
    values = []
    picks = [torch.randint(count, (30, count), generator=generator) for count in (25, 20)]
    for a, b in zip(*picks, strict=True):
        first = Summary.of(repeated(real, torch.bincount(a, minlength=25)))
        second = Summary.of(repeated(fake, torch.bincount(b, minlength=20)))
        values.append(distance(first, second))
    expected = float(torch.tensor(values, dtype=torch.float64).std())
    assert found.value == pytest.approx(expected, 1e-5)
    assert found.resamples == 30


def test_copies_of_a_videos_rows_tell_nothing_new() -> None:
    once = videos(30), videos(25, mean=0.5, seed=1)
    often = [features_of(each.values.repeat_interleave(5, dim=0), 5) for each in once]
    plain = frechet_deviation(*once, ddof=0)
    assert frechet_deviation(*often, ddof=0).value == pytest.approx(plain.value, 1e-6)
    frames = [features_of(each.values, 1) for each in often]  # each row its own video
    assert frechet_deviation(frames[0], frames[1], ddof=0).value < 0.7 * plain.value


def test_the_deviation_is_near_that_of_fresh_draws() -> None:
    """Rather above than below it."""
    draws = [
        frechet(videos(80, seed=2 * k), videos(80, mean=0.5, seed=2 * k + 1)) for k in range(60)
    ]
    fresh = float(torch.tensor(draws).std())
    found = frechet_deviation(videos(80), videos(80, mean=0.5, seed=1)).value
    assert 0.8 * fresh < found < 2 * fresh


@pytest.mark.parametrize(("count", "rows", "width"), [(40, 1, 90), (150, 1, 40), (30, 10, 40)])
def test_threads_do_not_matter(count: int, rows: int, width: int, one_thread_after: None) -> None:
    real, fake = videos(count, rows, width), videos(count, rows, width, mean=0.5, seed=1)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(frechet_deviation(real, fake, resamples=20).value)
    assert found[0] == pytest.approx(found[1], 1e-9)


def test_a_seed_decides() -> None:
    real, fake = videos(20), videos(20, seed=1)
    assert frechet_deviation(real, fake, seed=1) == frechet_deviation(real, fake, seed=1)
    assert frechet_deviation(real, fake, seed=1) != frechet_deviation(real, fake, seed=2)


@pytest.mark.parametrize(
    ("each", "asked", "expected"), [(1e9, 100, 100), (4e10, 100, 50), (1e12, 100, 20), (1e12, 9, 9)]
)
def test_expensive_resamples_are_fewer(
    each: float, asked: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "operations", lambda *_: each)
    real, fake = videos(8), videos(8, seed=1)
    assert frechet_deviation(real, fake, resamples=asked).resamples == expected


def test_many_frames_of_wide_features_are_expensive() -> None:
    def of(count: int, rows: int, width: int) -> Side:
        side = Side(videos(2))
        side.values = torch.zeros(1, 1).expand(count * rows, width)
        side.sizes = torch.full((count,), rows)
        return side

    for count in (16, 256, 2048):
        for width in (400, 1280, 2560):
            assert resampling.operations(*(2 * [of(count, 1, width)])) < uncertainty.BUDGET / 80
    frames = of(210, 238, 2048)
    assert resampling.operations(frames, frames) > uncertainty.BUDGET / 40


def test_halves_spread_a_mean_as_theory_says() -> None:
    real, fake = videos(41, 3), videos(24, 3, seed=1)

    def score(first: Features, second: Features) -> float:
        return float(first.values[:, 0].mean() - second.values[:, 0].mean())

    found = deviation_over_videos(score, real, fake, resamples=800)
    means = [each.values[:, 0].view(-1, 3).mean(1) for each in (real, fake)]
    expected = math.sqrt(sum(float(each.var()) / len(each) for each in means))
    assert found.value == pytest.approx(expected, rel=0.1)
    assert found.resamples == 800


def test_halves_repeat_no_video() -> None:
    sizes = set()

    def score(first: Features, second: Features) -> float:
        assert len(set(first.videos)) == len(first.videos)
        assert len(second) == 2 * len(second.videos)
        sizes.add((len(first.videos), len(second.videos)))
        return 0.0

    deviation_over_videos(score, videos(9, 2), videos(6, 2), resamples=40)
    assert sizes == {(4, 3), (5, 3)}


def test_the_floor_compares_disjoint_halves() -> None:
    real = videos(11, 2)
    seen = []

    def score(first: Features, second: Features) -> float:
        assert not set(first.videos) & set(second.videos)
        assert len(first) == len(second) == 10
        seen.append(float(len(seen)))
        return seen[-1]

    assert floor(real, score, repeats=3) == Floor(1.0, 1.0, 5)


@pytest.mark.parametrize(("count", "rows", "width"), [(21, 1, 30), (16, 12, 8)])
def test_the_quick_floor_is_the_floor(count: int, rows: int, width: int) -> None:
    real = videos(count, rows, width)
    plain, quick = floor(real, frechet, seed=3), frechet_floor(real, seed=3)
    assert quick.value == pytest.approx(plain.value, 1e-5)
    assert quick.deviation == pytest.approx(plain.deviation, 1e-3)
    assert quick.videos_per_half == plain.videos_per_half == count // 2


def test_a_line_in_1_over_n_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def line(real: Side, fake: Side, first: Tensor, second: Tensor, ddof: int) -> Tensor:
        return 3 + 50 / first.sum(1) + 20 / second.sum(1)

    monkeypatch.setattr(uncertainty, "weighted_distances", line)
    assert extrapolate(videos(40), videos(16)) == pytest.approx(3, 1e-9)


def test_the_limit_is_nearer_to_the_truth() -> None:
    """Two normals in 8 dimensions, 0.25 apart; 100 videos of either leave a bias."""
    raw, limits = [], []
    for k in range(6):
        generator = torch.Generator().manual_seed(k)
        real, fake = (
            features_of(torch.randn(100, 8, generator=generator) + shift, 1)
            for shift in (0.0, 0.5 / math.sqrt(8))
        )
        raw.append(frechet(real, fake))
        limits.append(extrapolate(real, fake))
    assert sum(raw) / 6 > 0.25 + 0.15
    assert sum(limits) / 6 == pytest.approx(0.25, abs=0.08)


def test_what_cannot_be_resampled_is_an_error() -> None:
    one, three, seven, eight = (videos(count) for count in (1, 3, 7, 8))
    with pytest.raises(ValueError, match="at least 2 videos are needed, got 1"):
        frechet_deviation(eight, features_of(videos(1, 5).values, 5))
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 1"):
        frechet_deviation(eight, one)
    with pytest.raises(ValueError, match="the floor needs at least 4 videos, got 3"):
        floor(three, frechet)
    with pytest.raises(ValueError, match="the floor needs at least 4 videos, got 3"):
        frechet_floor(three)
    with pytest.raises(ValueError, match="halves of the videos needs at least 4 videos, got 3"):
        deviation_over_videos(frechet, eight, three)
    with pytest.raises(ValueError, match="the extrapolation needs at least 8 videos, got 7"):
        extrapolate(eight, seven)
    with pytest.raises(ValueError, match="resamples: a deviation needs at least 2, got 1"):
        frechet_deviation(eight, eight, resamples=1)
    with pytest.raises(ValueError, match="repeats: a deviation needs at least 2, got 1"):
        floor(eight, frechet, repeats=1)
    with pytest.raises(ValueError, match="widths 6 and 5 differ"):
        frechet_deviation(eight, videos(8, width=5))
    eight.values[5, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 8 samples, first in sample 5"):
        frechet_deviation(eight, seven)
    unordered = Features({"features": seven.values}, seven.groups.flip(0), seven.videos)
    with pytest.raises(ValueError, match="not in the order of their videos"):
        frechet_deviation(unordered, seven)
