"""A drift report as text, for the terminal and for files."""

from __future__ import annotations

import math
from typing import Any

from tools.steadiness.summary import (
    ERRORS,
    FACTORS,
    FEWEST,
    STATISTICS,
    VISIBLE,
    Estimate,
    Summary,
)


def text(summary: Summary, real: Summary | None = None) -> str:
    """The table with what it says, in words."""
    lines = [_head(summary), ""]
    lines += _table(summary, real)
    lines += ["", *_seam_lines(summary, real), *_verdict(summary, real)]
    return "\n".join(lines)


def csv_rows(summary: Summary) -> list[list[str | float | int]]:
    """A row for each window: its number, first and last frame, and every statistic's mean."""
    rows: list[list[str | float | int]] = [["window", "first_frame", "last_frame", *STATISTICS]]
    for index, (start, stop) in enumerate(summary.windows):
        rows.append([index, start, stop - 1, *[summary.values[s][index] for s in STATISTICS]])
    return rows


def plain(summary: Summary, real: Summary | None = None) -> dict[str, Any]:
    """The report for JSON, which has no number for an error of one video: null."""
    content: dict[str, Any] = {
        "name": summary.name,
        "videos": summary.videos,
        "frames": summary.frames,
        "windows": [list(window) for window in summary.windows],
        "values": {name: list(values) for name, values in summary.values.items()},
        "change": {name: _plain(each) for name, each in summary.change.items()},
        "mean_size_of_change": dict(summary.wander),
        "seams": None,
        "drifting": summary.drifting(real),
    }
    if summary.seams:
        seams = summary.seams
        content["seams"] = {
            "frames": list(seams.frames),
            "difference_at": seams.at,
            "difference_within": seams.within,
            "ratio": _plain(seams.ratio),
            "visible": seams.visible,
        }
    return content


def _plain(estimate: Estimate) -> dict[str, float | None]:
    error = None if math.isnan(estimate.error) else estimate.error
    return {"value": estimate.value, "error": error}


def _head(summary: Summary) -> str:
    count = len(summary.windows)
    return (
        f"{summary.name}: {summary.videos} videos of {summary.frames} frames, in {count} windows "
        f"(grey levels from 0 to 255)"
    )


def _table(summary: Summary, real: Summary | None) -> list[str]:
    head = ["", "first window", "last window", "change", "size of change"]
    if real is not None:
        head += ["change of real", "size of real"]
    rows = [head]
    for name in STATISTICS:
        values = summary.values[name]
        row = [name, f"{values[0]:.1f}", f"{values[-1]:.1f}"]
        for each in (summary, real):
            if each is not None:
                row += [_change(name, each.change[name]), _size(name, each.wander[name])]
        rows.append(row)
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _change(name: str, change: Estimate) -> str:
    error = "" if math.isnan(change.error) else f" ± {change.error:.2g}"
    if name in FACTORS:
        error = "" if math.isnan(change.error) else f" ± {100 * change.error:.0f} %"
        return f"x {change.value:.2f}{error}"
    return f"{change.value:+.1f}{error}"


def _size(name: str, size: float) -> str:
    return f"x {size:.2f}" if name in FACTORS else f"{size:.1f}"


def _seam_lines(summary: Summary, real: Summary | None) -> list[str]:
    seams = summary.seams
    if seams is None:
        return ["Seams: none known; samples.json tells them, or --window and --overlap."]
    error = "" if math.isnan(seams.ratio.error) else f" ± {100 * seams.ratio.error:.0f} %"
    line = (
        f"Seams: at {len(seams.frames)} seams neighbouring frames differ by {seams.at:.2f} grey "
        f"levels, elsewhere by {seams.within:.2f}: {seams.ratio.value:.2f} times as much{error}"
    )
    if real is not None and real.seams is not None:
        line += (
            f" (real videos at the same places: {real.seams.at:.2f} and {real.seams.within:.2f}, "
            f"{real.seams.ratio.value:.2f} times)"
        )
    return [line + "."]


def _verdict(summary: Summary, real: Summary | None) -> list[str]:
    lines = []
    if summary.seams is not None:
        can = "can" if summary.seams.visible else "cannot"
        lines.append(f"        They {can} be told from other places.")
    if summary.videos < FEWEST:
        return [*lines, f"Drift: not judged, fewer than {FEWEST} videos have no reliable error."]
    found = summary.drifting(real)
    beyond = "beyond that of real videos" if real else "beyond what chance explains"
    if found:
        return [*lines, f"Drift {beyond}: {', '.join(found)}."]
    largest = max(summary.change[name].error for name in STATISTICS[:-1] if name not in FACTORS)
    noticed = max(VISIBLE, ERRORS * largest)
    return [
        *lines,
        f"Drift: none {beyond}; with {summary.videos} videos, colours that drift by less than "
        f"{noticed:.0f} grey levels may go unnoticed.",
    ]
