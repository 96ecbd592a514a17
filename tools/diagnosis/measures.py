"""How well probabilities tell abnormal from normal videos, and how sure one can be of that.

F1 is that of the abnormal class at probability 0.5, which published results are compared by. It
says little where most videos are abnormal: calling all of them so scores high. AUROC and balanced
accuracy are 0.5 then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

THRESHOLD = 0.5  # abnormal from here on
DRAWS = 1000  # of the bootstrap
LEVEL = 0.95  # of its intervals
MEASURES = {  # name -> heading; all rise as the results get better
    "f1": "F1",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
}
CONFUSION = ("true_positive", "false_positive", "true_negative", "false_negative")


@dataclass(frozen=True)
class Interval:
    """A range that holds a value with a probability of `LEVEL`."""

    low: float
    high: float


def scores(labels: Integers, probabilities: Floats) -> dict[str, float]:
    """All of `MEASURES` in [0, 1], and the counts of `CONFUSION`.

    Inputs:  labels (N,) 0 or 1, probabilities (N,) of being abnormal
    Raises:  ValueError for other labels, labels of one class, or values outside [0, 1]
    """
    check(labels, probabilities)
    called = (probabilities >= THRESHOLD).astype(np.int64)
    (true_negative, false_positive), (false_negative, true_positive) = metrics.confusion_matrix(
        labels, called, labels=[0, 1]
    )
    return {
        "f1": float(metrics.f1_score(labels, called, zero_division=0.0)),
        "macro_f1": float(metrics.f1_score(labels, called, average="macro", zero_division=0.0)),
        "auroc": float(metrics.roc_auc_score(labels, probabilities)),
        "average_precision": float(metrics.average_precision_score(labels, probabilities)),
        "balanced_accuracy": float(metrics.recall_score(labels, called, average="macro")),
        "accuracy": float(metrics.accuracy_score(labels, called)),
        "true_positive": float(true_positive),
        "false_positive": float(false_positive),
        "true_negative": float(true_negative),
        "false_negative": float(false_negative),
    }


def check(labels: Integers, probabilities: Floats) -> None:
    """Raises ValueError unless both can be scored; see `scores`."""
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError(f"{len(labels)} labels and {probabilities.shape} probabilities")
    if set(labels.tolist()) != {0, 1}:
        raise ValueError(f"labels to score by must be 0 and 1, both, got {sorted(set(labels))}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # not a number is neither
        raise ValueError("probabilities must lie between 0 and 1")


def draw_videos(labels: Integers, seed: int = 0, draws: int = DRAWS) -> Integers:
    """How often each video is in each of the bootstrap's draws: (draws, N).

    Videos are drawn with replacement; a draw without one of the classes is not worth a score,
    and is drawn anew.
    """
    random = np.random.default_rng(seed)
    counts = np.empty((draws, len(labels)), np.int64)
    for row in counts:
        while True:
            row[:] = np.bincount(random.integers(len(labels), size=len(labels)), minlength=len(row))
            if 0 < row[labels == 1].sum() < row.sum():
                break
    return counts


def weighted_scores(
    labels: Integers, probabilities: Floats, weights: Integers
) -> dict[str, Floats]:
    """`MEASURES` of many draws at once: weights (R, N) -> name -> (R,).

    With weights of one these are `scores`; a weight of two counts a video twice.
    """
    order = np.argsort(-probabilities, kind="stable")
    values = probabilities[order]
    positive = np.where(labels[order] == 1, weights[:, order], 0)
    negative = np.where(labels[order] == 0, weights[:, order], 0)
    last = np.flatnonzero(np.append(np.diff(values) != 0, True))  # of videos with equal values
    hits, misses = positive.cumsum(1)[:, last], negative.cumsum(1)[:, last]
    positives, negatives = hits[:, -1:], misses[:, -1:]
    gained = np.diff(hits, axis=1, prepend=0)
    # Pairs that are in order; of videos with equal values, half of them.
    ordered = gained * (negatives - misses + np.diff(misses, axis=1, prepend=0) / 2)
    precision = hits / np.maximum(hits + misses, 1)
    called = values[last] >= THRESHOLD
    at = int(called.sum()) - 1
    zero = np.zeros(len(weights))
    true_positive = hits[:, at] if at >= 0 else zero
    false_positive = misses[:, at] if at >= 0 else zero
    all_positive, all_negative = positives[:, 0], negatives[:, 0]
    return {
        "auroc": ordered.sum(1) / (all_positive * all_negative),
        "average_precision": (gained * precision).sum(1) / all_positive,
        **_from_counts(true_positive, false_positive, all_positive, all_negative),
    }


def _from_counts(
    true_positive: Floats, false_positive: Floats, positives: Floats, negatives: Floats
) -> dict[str, Floats]:
    true_negative = negatives - false_positive
    f1 = 2 * true_positive / (true_positive + false_positive + positives)
    other = 2 * true_negative / (true_negative + (positives - true_positive) + negatives)
    return {
        "f1": f1,
        "macro_f1": (f1 + other) / 2,
        "balanced_accuracy": (true_positive / positives + true_negative / negatives) / 2,
        "accuracy": (true_positive + true_negative) / (positives + negatives),
    }


@dataclass(frozen=True)
class Bootstrap:
    """Scores of bootstrap draws, of one row of a study: name -> (draws,), mean over seeds."""

    values: Mapping[str, Floats]

    def interval(self, name: str) -> Interval:
        """Of a score."""
        return _interval(self.values[name])

    def difference(self, other: Bootstrap, name: str) -> Interval:
        """Of this row's score less another's, whose draws are of the same videos and seeds."""
        return _interval(self.values[name] - other.values[name])


def bootstrap(
    labels: Integers, probabilities: Floats, videos: Integers, seed: int = 0
) -> Bootstrap:
    """Draw test videos and seeds, both with replacement, and score each draw.

    An interval thus says what other videos of the kind and other seeds may give. Rows of one
    study with the same videos, number of seeds and `seed` share their draws, so that their
    differences can be judged in pairs.

    Inputs:  labels (N,); probabilities (S, N), a row for each seed; videos, from `draw_videos`
    """
    random = np.random.default_rng((seed, 1))
    runs, draws = len(probabilities), len(videos)
    chosen = random.integers(runs, size=(draws, runs))
    share = np.stack([(chosen == run).mean(1) for run in range(runs)])  # (S, draws)
    of_runs = [weighted_scores(labels, each, videos) for each in probabilities]
    return Bootstrap(
        {
            name: np.sum([part * run[name] for part, run in zip(share, of_runs, strict=True)], 0)
            for name in MEASURES
        }
    )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, None of a single value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation


def _interval(values: Floats) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
