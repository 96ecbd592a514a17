"""Numbers from features that are given directly, so that every value can be told beforehand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tools.metrics.catalogue import FAMILIES, METRICS, choose_metrics, family_metrics
from tools.metrics.features import Features
from tools.metrics.protocol import Protocol
from tools.metrics.scores import COMPUTE, compute, levels

PROTOCOL = Protocol(is_splits=2)


def features(values: Tensor, logits: Tensor | None = None, per_video: int = 1) -> Features:
    """Rows of videos 0, 1, ..., `per_video` rows each."""
    groups = torch.arange(len(values)) // per_video
    outputs = {"features": values.float()}
    if logits is not None:
        outputs["logits"] = logits.float()
    return Features(outputs, groups, [f"{k}" for k in range(int(groups.max()) + 1)])


def normal(count: int, width: int = 4, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) + shift


@pytest.mark.parametrize("metric", ["fvd", "fid", "cdfvd", "fd_dinov2", "fvd_frozen"])
def test_a_shifted_set_is_as_far_as_its_shift_squared(metric: str) -> None:
    real = normal(40)
    [number] = compute(metric, features(real), features(real + 3), PROTOCOL)
    assert number.value == pytest.approx(4 * 3**2, rel=1e-5)
    assert number.name == metric
    assert number.deviation is not None
    assert "100 bootstrap resamples" in number.deviation_over


def test_quick_gives_the_same_value_without_what_takes_long() -> None:
    sides = features(normal(40)), features(normal(40, seed=1))
    [slow] = compute("fvd", *sides, PROTOCOL)
    [quick] = compute("fvd", *sides, PROTOCOL, quick=True)
    assert quick.value == slow.value
    assert quick.deviation is None
    assert not quick.extra


def test_fvd_is_extrapolated_only_with_videos_enough() -> None:
    few = compute("fvd", features(normal(15)), features(normal(15, seed=1)), PROTOCOL)[0]
    many = compute("fvd", features(normal(300)), features(normal(300, seed=1)), PROTOCOL)[0]
    assert "fvd_inf" not in few.extra
    assert abs(many.extra["fvd_inf"]) < many.value  # both sets are of one distribution
    frames = features(normal(300)), features(normal(300, seed=1))
    assert "fid_inf" not in compute("fid", *frames, PROTOCOL)[0].extra


def test_kernel_distances_of_one_distribution_lie_around_zero() -> None:
    for metric in ("kid", "kvd"):
        sides = features(normal(400)), features(normal(300, seed=1))
        [number] = compute(metric, *sides, PROTOCOL)
        assert abs(number.value) < 3 * number.deviation / 10 + 0.05
        assert number.extra["subset_size"] == 150
    [far] = compute("kid", features(normal(400)), features(normal(400, shift=1.0)), PROTOCOL)
    assert far.value > 1


def test_inception_scores_of_sure_and_of_idle_classifiers() -> None:
    logits = 1e4 * torch.eye(5).repeat(20, 1)
    for metric in ("is", "video_is"):
        [sure] = compute(metric, None, features(torch.zeros(100, 2), logits), PROTOCOL)
        assert 4 < sure.value <= 5
        assert sure.extra == {"splits": 2, "samples_per_split": 50}
        [idle] = compute(metric, None, features(torch.zeros(100, 2), 0 * logits), PROTOCOL)
        assert idle.value == pytest.approx(1)


def test_an_inception_score_is_refused_below_what_the_protocol_wants() -> None:
    few = features(torch.zeros(9, 2), torch.zeros(9, 3))
    with pytest.raises(ValueError, match="wants 50000 samples and there are 9"):
        compute("is", None, few, replace(PROTOCOL, is_samples=50_000))
    with pytest.raises(ValueError, match="wants 2048 samples"):  # of clips there are never more
        compute("video_is", None, few, replace(PROTOCOL, is_samples=50_000))
    for splits in (10, 5):  # a split of one sample always scores 1
        with pytest.raises(ValueError, match=f"9 samples do not fill {splits} splits"):
            compute("is", None, few, replace(PROTOCOL, is_splits=splits))


def test_neighbours_give_four_numbers_in_order() -> None:
    real = features(normal(60))
    same = {n.name: n for n in compute("prdc", real, features(normal(60)), PROTOCOL)}
    assert list(same) == ["precision", "recall", "density", "coverage"]
    assert {same[name].value for name in ("precision", "recall", "coverage")} == {1.0}
    assert all("random halves" in number.deviation_over for number in same.values())
    far = compute("prdc", real, features(normal(60, shift=100.0)), PROTOCOL)
    assert [number.value for number in far] == [0, 0, 0, 0]


def test_jedi_compares_second_moments_with_a_deviation_over_videos() -> None:
    real = normal(40)
    [same] = compute("jedi", features(real), features(real), PROTOCOL)
    [double] = compute("jedi", features(real), features(2 * real), PROTOCOL)
    second = real.double().T @ real.double() / 40
    assert same.value == 0
    assert double.value == pytest.approx(100 * 9 * float(second.square().sum()) / 16, rel=1e-5)
    assert double.deviation is not None


@pytest.mark.parametrize("metric", ["fvd", "kid", "prdc", "jedi"])
def test_a_metric_that_compares_asks_for_the_other_side(metric: str) -> None:
    with pytest.raises(ValueError, match="--real_path"):
        compute(metric, None, features(normal(8)), PROTOCOL)
    with pytest.raises(ValueError, match="samples of each side; there is 1 on the gen"):
        compute(metric, features(normal(8)), features(normal(1)), PROTOCOL)


@pytest.mark.parametrize("metric", ["fvd", "kvd", "prdc", "jedi"])
def test_the_floor_compares_halves_of_the_real_videos(metric: str) -> None:
    found = levels(metric, features(normal(40), per_video=2), PROTOCOL)
    assert list(found) == [kind.name for kind in METRICS[metric].kinds]
    assert all((level.kind, level.videos) == ("halves", 10) for level in found.values())
    assert all(level.deviation is not None and level.deviation >= 0 for level in found.values())


def test_the_floor_of_half_the_videos_lies_above_the_score_of_all() -> None:
    real, other = features(normal(200)), features(normal(200, seed=1))
    assert (
        levels("fvd", real, PROTOCOL)["fvd"].value > compute("fvd", real, other, PROTOCOL)[0].value
    )


def test_there_is_no_floor_without_videos_for_two_halves() -> None:
    assert levels("fvd", features(normal(3)), PROTOCOL) == {}
    assert levels("prdc", features(normal(6)), PROTOCOL) == {}  # halves of 3, neighbours are 3


def test_a_score_without_a_real_side_is_read_against_the_real_sets_own() -> None:
    real = features(torch.zeros(100, 2), 1e4 * torch.eye(5).repeat(20, 1))
    [number] = compute("is", None, real, PROTOCOL)
    level = levels("is", real, PROTOCOL)["is"]
    assert (level.kind, level.value, level.videos) == ("real", number.value, 100)


def test_every_metric_but_the_search_for_copies_has_its_numbers() -> None:
    assert set(COMPUTE) == set(METRICS) - {"memorisation"}
    assert {role for roles in FAMILIES.values() for role in roles} == {
        metric.role for metric in METRICS.values()
    }
    names = [kind.name for metric in METRICS.values() for kind in metric.kinds]
    assert len(set(names)) == len(names)


def test_metrics_are_chosen_by_name() -> None:
    assert choose_metrics("", "reference") == ["fvd", "fid", "is"]
    assert choose_metrics("is, FD-DINOv2,fvd", "reference") == ["fvd", "is", "fd_dinov2"]
    assert choose_metrics("all", "untrained") == family_metrics("untrained")
    assert "cdfvd" not in family_metrics("efficientnet")
    with pytest.raises(ValueError, match="--metrics fdv: no such metric; there are fvd, fid"):
        choose_metrics("fdv", "reference")
    with pytest.raises(ValueError, match="extractor untrained cannot compute it; they can: fvd"):
        choose_metrics("fvd,cdfvd", "untrained")


def test_a_number_takes_its_share_of_the_time() -> None:
    numbers = compute("prdc", features(normal(20)), features(normal(20, seed=1)), PROTOCOL)
    assert all(number.seconds > 0 and math.isfinite(number.seconds) for number in numbers)
