"""Scores, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from tools.diagnosis.measures import (
    MEASURES,
    bootstrap,
    draw_videos,
    mean_and_deviation,
    scores,
    weighted_scores,
)

SIXTY_OF_EIGHTY = np.repeat([1, 0], [60, 20])


def random_case(seed: int, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3 > 0).astype(np.int64)
    return labels, random.integers(0, 11, count) / 10  # many equal values, 0.5 among them


def test_calling_all_abnormal_has_a_high_f1_and_nothing_else() -> None:
    found = scores(SIXTY_OF_EIGHTY, np.ones(80))
    assert found["f1"] == pytest.approx(6 / 7)
    assert found["balanced_accuracy"] == found["auroc"] == 0.5
    assert found["average_precision"] == found["accuracy"] == 0.75
    assert (found["true_positive"], found["false_positive"]) == (60, 20)
    assert (found["true_negative"], found["false_negative"]) == (0, 0)


def test_perfect_and_inverted_answers() -> None:
    right = scores(SIXTY_OF_EIGHTY, SIXTY_OF_EIGHTY.astype(float))
    assert all(right[name] == 1 for name in MEASURES)
    wrong = scores(SIXTY_OF_EIGHTY, 1.0 - SIXTY_OF_EIGHTY)
    assert all(wrong[name] == 0 for name in MEASURES if name != "average_precision")


def test_a_video_at_one_half_is_called_abnormal() -> None:
    assert scores(np.array([0, 1]), np.array([0.5, 0.5]))["true_positive"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_weights_count_videos_as_often_as_they_say(seed: int) -> None:
    labels, probabilities = random_case(seed)
    random = np.random.default_rng(seed)
    weights = random.integers(0, 4, (6, len(labels)))
    weights[0] = 1
    weights[:, [labels.argmin(), labels.argmax()]] = 1  # both classes in every draw
    found = weighted_scores(labels, probabilities, weights)
    for draw, counts in enumerate(weights):
        repeated = scores(np.repeat(labels, counts), np.repeat(probabilities, counts))
        for name in MEASURES:
            assert found[name][draw] == pytest.approx(repeated[name], abs=1e-12), name


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_weights_with_all_videos_called_alike(value: float) -> None:
    labels = np.array([0, 1, 1])
    found = weighted_scores(labels, np.full(3, value), np.ones((1, 3), np.int64))
    once = scores(labels, np.full(3, value))
    assert {name: found[name][0] for name in MEASURES} == pytest.approx(
        {name: once[name] for name in MEASURES}
    )


def test_draws_have_all_their_videos_and_both_classes() -> None:
    labels = np.array([0] * 9 + [1])  # a third of plain draws would lack the abnormal one
    draws = draw_videos(labels, draws=200)
    assert (draws.sum(1) == 10).all()
    assert (draws[:, 9] > 0).all()
    assert (draws[:, :9].sum(1) > 0).all()
    assert len({tuple(draw) for draw in draws.tolist()}) > 100


def test_a_row_does_not_differ_from_itself() -> None:
    labels, probabilities = random_case(1)
    videos = draw_videos(labels)
    first, second = (bootstrap(labels, probabilities[None], videos) for _ in range(2))
    interval = first.difference(second, "auroc")
    assert (interval.low, interval.high) == (0, 0)


def test_intervals_hold_the_score_and_shrink_with_more_videos() -> None:
    widths = []
    for count in (30, 480):
        labels, _ = random_case(3, count)
        noise = np.random.default_rng(0).normal(size=(3, count))
        probabilities = 1 / (1 + np.exp(-(noise + labels)))
        draws = bootstrap(labels, probabilities, draw_videos(labels))
        mean = np.mean([scores(labels, each)["auroc"] for each in probabilities])
        interval = draws.interval("auroc")
        assert interval.low < mean < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 2.5  # of 16 times the videos: about a quarter


def test_seeds_that_disagree_widen_the_interval() -> None:
    labels = np.arange(200) % 2
    good, bad = labels * 0.5 + 0.25, np.full(200, 0.5)
    videos = draw_videos(labels)
    mixed = bootstrap(labels, np.stack([good, bad]), videos).interval("auroc")
    assert (mixed.low, mixed.high) == (0.5, 1.0)
    same = bootstrap(labels, np.stack([good, good]), videos).interval("auroc")
    assert (same.low, same.high) == (1.0, 1.0)


def test_deviation_is_that_of_a_sample_and_needs_two() -> None:
    assert mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_deviation([1.0]) == (1.0, None)


@pytest.mark.parametrize(
    ("labels", "probabilities", "told"),
    [
        ([1, 1], [0.1, 0.2], "both"),
        ([0, 2], [0.1, 0.2], "must be 0 and 1"),
        ([0, 1], [0.1, 1.2], "between 0 and 1"),
        ([0, 1], [0.1, float("nan")], "between 0 and 1"),
        ([0, 1], [0.1], "2 labels"),
    ],
)
def test_what_cannot_be_scored(labels: list[int], probabilities: list[float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        scores(np.array(labels), np.array(probabilities))
