"""Rows of a comparison in numbers: mean and spread over seeds, intervals, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tools.diagnosis.measures import (
    MEASURES,
    Bootstrap,
    Interval,
    bootstrap,
    draw_videos,
    mean_and_deviation,
    scores,
)
from tools.diagnosis.rows import Row

LAST = 5  # lines of a history that its end is the mean of
REFERENCE = "supervised"  # the algorithm that the others are compared with
PSEUDO = ("mask_rate", "pseudo_accuracy", "pseudo_accuracy_all", "pseudo_abnormal")


@dataclass(frozen=True)
class Value:
    """A score: mean and deviation over seeds (None: one seed), interval, each seed's."""

    mean: float
    deviation: float | None
    interval: Interval
    of_seeds: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of a row's score less the reference's, with its interval."""

    mean: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """What the interval says: "better", "worse", or "no difference shown"."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Summary:
    """All that a table says of a row."""

    row: Row
    values: Mapping[str, Value]
    confusion: Mapping[str, float]  # mean over seeds
    differences: Mapping[str, Difference] | None  # None: the reference itself, and trivial rows
    pseudo: Mapping[str, float]  # of `PSEUDO` at the end, where the row has it

    @property
    def facts(self) -> Mapping[str, object]:
        """Of its seeds: counts, seconds, clips_per_second, weights."""
        return self.row.results[0] if self.row.results else {}


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """The rows in order, each compared with the first supervised one.

    Raises:  ValueError where there is no row, or rows judged different videos
    """
    if not rows:
        raise ValueError("a comparison needs at least one row")
    first = rows[0]
    for row in rows:
        if row.videos != first.videos or not np.array_equal(row.labels, first.labels):
            raise ValueError(
                f"{row.name} judged other videos than {first.name}; rows of one table need the "
                "same test list"
            )
    videos = draw_videos(first.labels)
    drawn = [bootstrap(row.labels, row.probabilities, videos) for row in rows]
    reference = next((k for k, row in enumerate(rows) if is_reference(row)), None)
    found = [_summary(row, draws) for row, draws in zip(rows, drawn, strict=True)]
    if reference is None:
        return found
    basis, basis_draws = found[reference], drawn[reference]
    return [
        each
        if each.row.trivial or each is basis
        else replace(each, differences=_differences(each, draws, basis, basis_draws))
        for each, draws in zip(found, drawn, strict=True)
    ]


def is_reference(row: Row) -> bool:
    """Whether a row was trained on labelled videos alone."""
    if row.trivial:
        return False
    return bool(row.results) and row.results[0].get("method") == REFERENCE


def _summary(row: Row, draws: Bootstrap) -> Summary:
    each = [scores(row.labels, run) for run in row.probabilities]
    values = {
        name: Value(
            *mean_and_deviation([run[name] for run in each]),
            draws.interval(name),
            tuple(run[name] for run in each),
        )
        for name in MEASURES
    }
    counts = [name for name in each[0] if name not in MEASURES]
    confusion = {name: float(np.mean([run[name] for run in each])) for name in counts}
    return Summary(row, values, confusion, None, _pseudo(row))


def _differences(
    one: Summary, draws: Bootstrap, other: Summary, other_draws: Bootstrap
) -> dict[str, Difference]:
    return {
        name: Difference(value.mean - other.values[name].mean, draws.difference(other_draws, name))
        for name, value in one.values.items()
    }


def _pseudo(row: Row) -> dict[str, float]:
    """Mean over the last lines of each seed's history."""
    found: dict[str, float] = {}
    for name in PSEUDO:
        ends = [
            float(np.mean([value for _, value in history[name][-LAST:]]))
            for history in row.histories
            if history.get(name)
        ]
        if ends:
            found[name] = float(np.mean(ends))
    return found
