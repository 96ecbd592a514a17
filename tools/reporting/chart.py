"""Line charts as SVG text: they follow the page's light or dark colours and need no library."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

Points = Sequence[tuple[float, float]]  # (step, value)

WIDTH, HEIGHT = 460, 250  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 34  # room for the labels
COLOURS = ("var(--first, #c2452d)", "var(--second, #2d6fa8)", "var(--third, #3d8b4f)")
INK, GRID = "var(--faint, #777)", "var(--line, #ddd)"


def read_losses(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The columns of a run's losses.csv as points; cells that are empty are left out.

    Raises FileNotFoundError, or ValueError for a file without a column `step`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of losses; is this a run folder?")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        if "step" not in names:
            raise ValueError(f"{path}: no column `step`; not a table of losses")
        columns: dict[str, list[tuple[float, float]]] = {name: [] for name in names[1:]}
        for row in reader:
            for name, points in columns.items():
                if row["step"] and row.get(name):
                    points.append((float(row["step"]), float(row[name])))
    return {name: points for name, points in columns.items() if points}


def line_chart(series: Mapping[str, Points], title: str) -> str:
    """An SVG chart of one or a few lines over the training step.

    Raises ValueError where no finite value is given or there are more lines than colours.
    """
    drawn = {name: _finite(points) for name, points in series.items()}
    values = [value for points in drawn.values() for _, value in points]
    if not values or len(drawn) > len(COLOURS):
        raise ValueError(f"{title}: a chart needs finite values of 1 to {len(COLOURS)} lines")
    across = _Axis(0, max(step for points in drawn.values() for step, _ in points) or 1)
    up = _Axis(min(values), max(values))
    parts = [_grid(across, up)]
    for (name, points), colour in zip(drawn.items(), COLOURS, strict=False):
        parts.append(_line(name, points, colour, across, up))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


class _Axis:
    """A range with round marks, mapped to 0..1."""

    def __init__(self, low: float, high: float) -> None:
        spread = (high - low) or abs(high) or 1.0
        self.mark = _round_step(spread / 4)
        self.low = math.floor(low / self.mark) * self.mark
        self.high = math.ceil((low + spread) / self.mark) * self.mark

    def marks(self) -> list[float]:
        count = round((self.high - self.low) / self.mark)
        return [self.low + index * self.mark for index in range(count + 1)]

    def __call__(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _x(position: float) -> float:
    return LEFT + position * (WIDTH - LEFT - RIGHT)


def _y(position: float) -> float:
    return HEIGHT - BOTTOM - position * (HEIGHT - TOP - BOTTOM)


def _grid(across: _Axis, up: _Axis) -> str:
    right, below = WIDTH - RIGHT, HEIGHT - BOTTOM + 20
    rows = [
        f'<line x1="{LEFT}" x2="{right}" y1="{_y(up(mark)):.1f}" y2="{_y(up(mark)):.1f}" '
        f'stroke="{GRID}"/><text x="{LEFT - 8}" y="{_y(up(mark)) + 4:.1f}" text-anchor="end" '
        f'fill="{INK}">{mark:g}</text>'
        for mark in up.marks()
    ]
    steps = [
        f'<text x="{_x(across(mark)):.1f}" y="{below}" text-anchor="middle" '
        f'fill="{INK}">{mark:g}</text>'
        for mark in across.marks()
    ]
    return "".join(rows + steps)


def _line(name: str, points: Points, colour: str, across: _Axis, up: _Axis) -> str:
    corners = [f"{_x(across(step)):.1f},{_y(up(value)):.1f}" for step, value in points]
    label = f"<title>{escape(name)}</title>"
    if len(corners) == 1:
        x, y = corners[0].split(",")
        return f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}">{label}</circle>'
    return (
        f'<polyline points="{" ".join(corners)}" fill="none" stroke="{colour}" '
        f'stroke-width="2" stroke-linejoin="round">{label}</polyline>'
    )
