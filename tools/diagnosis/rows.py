"""What one row of a comparison left behind: the predictions of each of its seeds."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tools.diagnosis.measures import Floats, Integers, check

PREDICTIONS = "predictions.csv"  # video,label,probability
HISTORY = "history.csv"  # step and what was logged at it
RESULT = "result.json"  # written last: settings, counts, checksum, seconds
SEED_FOLDER = re.compile(r"seed_(\d+)")

Curve = list[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class Row:
    """Predictions of the same test videos by training with each of some seeds."""

    name: str
    seeds: tuple[int, ...]
    videos: tuple[str, ...]  # N names
    labels: Integers  # (N,)
    probabilities: Floats  # (S, N)
    trivial: bool = False  # a rule that needs no video understanding, to compare with
    note: str = ""
    results: tuple[Mapping[str, Any], ...] = ()  # result.json of each seed
    histories: tuple[Mapping[str, Curve], ...] = field(default=())  # history.csv of each seed


def read_row(folder: Path, name: str | None = None, seeds: Container[int] | None = None) -> Row:
    """The finished seeds of a row, from its folders seed_0, seed_1 and so on.

    Inputs:  the row's folder, what to call the row (None: as the folder), and the seeds that
             count (None: all that are there)
    Raises:  FileNotFoundError where no seed is finished, ValueError for damaged files and seeds
             that judged other videos
    """
    finished = _finished(folder).items()
    found = sorted((seed, place) for seed, place in finished if seeds is None or seed in seeds)
    if not found:
        raise FileNotFoundError(f"{folder}: no finished seed in it (seed_0/{RESULT})")
    tables = [_predictions(place / PREDICTIONS) for _, place in found]
    videos, labels, _ = tables[0]
    for (seed, place), table in zip(found, tables, strict=True):
        if table[0] != videos or not np.array_equal(table[1], labels):
            raise ValueError(
                f"{place}: seed {seed} judged other videos than seed {found[0][0]}; remove the "
                "seeds of earlier settings"
            )
    return Row(
        name=name or folder.name,
        seeds=tuple(seed for seed, _ in found),
        videos=videos,
        labels=labels,
        probabilities=np.stack([probabilities for _, _, probabilities in tables]),
        results=tuple(_json(place / RESULT) for _, place in found),
        histories=tuple(_history(place / HISTORY) for _, place in found),
    )


def _finished(folder: Path) -> dict[int, Path]:
    matches = {
        place: SEED_FOLDER.fullmatch(place.name)
        for place in (folder.iterdir() if folder.is_dir() else ())
    }
    return {
        int(match[1]): place for place, match in matches.items() if match and _is_finished(place)
    }


def _is_finished(place: Path) -> bool:
    return (place / RESULT).is_file() and (place / PREDICTIONS).is_file()


def _predictions(path: Path) -> tuple[tuple[str, ...], Integers, Floats]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        videos = tuple(row["video"] for row in rows)
        labels = np.array([int(row["label"]) for row in rows], np.int64)
        probabilities = np.array([float(row["probability"]) for row in rows], np.float64)
        check(labels, probabilities)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a table video,label,probability: {error}") from None
    return videos, labels, probabilities


def _history(path: Path) -> dict[str, Curve]:
    """The logged values, without empty cells; nothing where nothing was logged."""
    curves: dict[str, Curve] = {}
    if not path.is_file():
        return curves
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != "step" and value not in ("", None):
                    curves.setdefault(name, []).append((float(row["step"]), float(value)))
    return curves


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}; delete its folder to run it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a result; delete its folder to run it again")
    return content
