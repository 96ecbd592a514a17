"""Tables of how many videos pass the judge of cameras."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.training.files import whole_file

PASSED, STILL, REFUSED, LEFT_OUT = "passed", "still", "refused", "left out"
NORMAL = 1.959964  # of a two-sided interval of 95 %
FIGURES = (
    *("motion_median", "motion_pairs", "motion_possible", "motion_features", "frames", "points"),
    *(
        "track",
        "reprojection",
        "view",
        "angle",
        "jump",
        "travel",
        "explained",
        "disagreement",
        "behind",
        "mapper",
    ),
    "frames_given",
)


@dataclass(frozen=True)
class Row:
    """What came of one video."""

    set_name: str
    video: str
    outcome: str  # passed, still, refused or left out
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def wilson(passed: int, count: int, normal: float = NORMAL) -> tuple[float, float]:
    """Interval (low, high) of a share (Wilson 1927), which also holds for 0 of a few."""
    if count == 0:
        return 0.0, 1.0
    share, square = passed / count, normal * normal
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    half *= normal / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def summarise(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The line of one set."""
    judged = [row for row in rows if row.outcome != LEFT_OUT]
    passed = [row for row in judged if row.outcome == PASSED]
    low, high = wilson(len(passed), len(judged))
    return {
        "set": name,
        "videos": len(judged),
        "passed": len(passed),
        "share": len(passed) / len(judged) if judged else None,
        "low": low,
        "high": high,
        "still": sum(row.outcome == STILL for row in judged),
        "refused": sum(row.outcome == REFUSED for row in judged),
        "left_out": len(rows) - len(judged),
        "motion": _median(judged, "motion_median"),
        "frames_placed": _median([row for row in judged if row.outcome != STILL], "frames"),
        "reprojection_passed": _median(passed, "reprojection"),
        "failed_on": Counter(kind for row in judged for kind in _kinds(row)).most_common(),
    }


def write_tables(folder: Path, rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """Write all tables and return the one for people.

    Args:
        folder: where they go.
        rows: one for each video.
        settings: how they were judged.
    """
    names = list(dict.fromkeys(row.set_name for row in rows))
    sets = [summarise(name, [row for row in rows if row.set_name == name]) for name in names]
    text = markdown(sets, settings)
    fields = [key for key in sets[0] if key != "failed_on"] if sets else []
    table = [fields, *([line[key] for key in fields] for line in sets)]
    videos: list[list[Any]] = [["set", "video", "outcome", *FIGURES, "reasons"]]
    videos += [
        [row.set_name, row.video, row.outcome]
        + [row.figures.get(name) for name in FIGURES]
        + ["; ".join(row.reasons)]
        for row in rows
    ]
    content = {"settings": settings, "sets": sets}
    files = {
        "pass_rates.md": text + "\n",
        "pass_rates.csv": _csv(table),
        "pass_rates.json": json.dumps(content, indent=1) + "\n",
        "videos.csv": _csv(videos),
    }
    for name, words in files.items():
        with whole_file(folder / name) as file:
            file.write(words.encode())
    return text


def markdown(sets: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    """The table of sets."""
    lines = [
        f"{settings['frames']} frames of each video, every {settings['stride']}; in brackets the "
        f"95 % interval of the share (Wilson)",
        "",
        "| set | videos | pass | still | refused | left out | motion | px | failed on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in sets:
        share = "-"
        if line["share"] is not None:
            share = f"{line['share']:.0%} [{line['low']:.0%}, {line['high']:.0%}]"
        why = ", ".join(f"{kind} {count}" for kind, count in line["failed_on"])
        lines.append(
            f"| {line['set']} | {line['videos']} | {share} | {line['still']} | {line['refused']} "
            f"| {line['left_out']} | {_number(line['motion'], 3)} "
            f"| {_number(line['reprojection_passed'], 2)} | {why} |"
        )
    return "\n".join(lines)


def _kinds(row: Row) -> list[str]:
    """What a refused video failed on, in a word each."""
    if row.outcome != REFUSED:
        return []
    words = {
        "COLMAP placed": "frames",
        "frames see": "tracks",
        "pixels off": "reprojection",
        "field of view": "view",
        "rays to": "angle",
        "points (": "points",
        "one step": "jump",
        "model explains": "explained",
        "mappers": "confirmation",
    }
    found = [next((word for key, word in words.items() if key in r), "COLMAP") for r in row.reasons]
    return list(dict.fromkeys(found))


def _median(rows: Sequence[Row], name: str) -> float | None:
    values = [row.figures[name] for row in rows if row.figures.get(name) is not None]
    return statistics.median(values) if values else None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
