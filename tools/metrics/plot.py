"""The report's picture: a panel for every number, a point with its deviation for every set."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

from tools.metrics.result import Level, Result, Score
from tools.metrics.tables import TOO_FEW_SENTENCE, has_too_few, heading, marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tools.metrics.catalogue import ScoreKind

COLUMNS = 3
PANEL_WIDTH = 4.2  # inches
LINE_WIDTH_CHARACTERS = 13  # of the title, for every inch
LINES = {"halves": "-", "real": "--", "expected": ":"}
POINT, FLOOR, WEAK = "#2d6fa8", "#e3b23c", "#c2452d"


def draw(result: Result) -> bytes:
    """The picture as a PNG file; over training steps where the sets are those of one run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    kinds = result.kinds()
    columns = max(1, min(COLUMNS, len(kinds)))
    rows = max(1, -(-len(kinds) // columns))
    curve = is_curve(result)
    width = max(PANEL_WIDTH * columns, 6.4)
    title = _title(result, int(width * LINE_WIDTH_CHARACTERS))
    panel_height = 2.6 if curve else 1.3 + 0.3 * max(len(result.sets), 2)
    title_height = 0.2 + 0.17 * (title.count("\n") + 1)
    height = panel_height * rows + title_height

    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - title_height / height), hspace=0.06)
    figure = Figure(figsize=(width, height), dpi=150, layout=layout)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.01, 1 - 0.12 / height, title, va="top", ha="left", fontsize=9, linespacing=1.35)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(kinds):
            axes.set_axis_off()
        elif curve:
            _draw_curve(axes, result, kinds[place])
        else:
            _draw_points(axes, result, kinds[place], labelled=place % columns == 0)
    _legend(figure, result, curve)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Title": title, "Software": None})
    return file.getvalue()


def is_curve(result: Result) -> bool:
    """Whether the sets are samples of one run at several training steps."""
    sets = [each for each in result.sets if not each.held_out]
    runs = {each.run for each in sets}
    steps = {each.step for each in sets}
    return len(steps) > 1 and len(steps) == len(sets) and None not in steps and len(runs) == 1


def _title(result: Result, characters: int) -> str:
    facts = f"Protocol {result.protocol['name']}, {result.family} features"
    if result.real is not None:
        facts += f", {result.real.used} real videos"
    told = [f"{mark} {caveat}" for caveat, mark in marks(result).items()]
    if has_too_few(result):
        told.append(TOO_FEW_SENTENCE)
    return "\n".join(line for text in [facts, *told] for line in textwrap.wrap(text, characters))


def _draw_points(axes: Axes, result: Result, kind: ScoreKind, labelled: bool) -> None:
    """Sets from top to bottom, the score to the right."""
    sets = [(each, result.score(each, kind)) for each in result.sets]
    _draw_level(axes, [score for _, score in sets if score], upright=True)
    for place, (_, score) in enumerate(sets):
        if score is not None:
            axes.errorbar(score.value, place, xerr=score.deviation, **_style(score))
    axes.set_yticks(range(len(sets)), [each.name for each, _ in sets] if labelled else [])
    axes.set_ylim(len(sets) - 0.4, -0.6)
    _finish(axes, heading(result, kind), True)
    axes.grid(axis="x", color="#e6e6e6")


def _draw_curve(axes: Axes, result: Result, kind: ScoreKind) -> None:
    """The score over training steps."""
    found = [(each, result.score(each, kind)) for each in result.sets]
    points = sorted(
        ((each.step or 0, score) for each, score in found if score and not each.held_out),
        key=lambda point: point[0],
    )
    _draw_level(axes, [score for _, score in found if score], upright=False)
    axes.plot(
        [step for step, _ in points], [score.value for _, score in points], color=POINT, lw=1.2
    )
    for step, score in points:
        axes.errorbar(step, score.value, yerr=score.deviation, **_style(score))
    for each, held_out in found:
        if each.held_out and held_out:
            axes.axhline(held_out.value, color="#555555", ls=":", lw=1.2)
    axes.set_xlabel("training step", fontsize=8)
    _finish(axes, heading(result, kind), False)
    axes.grid(color="#e6e6e6")


def _style(score: Score) -> dict[str, Any]:
    colour = POINT if score.publishable else WEAK
    return {
        "fmt": "o",
        "ms": 5,
        "color": colour,
        "mfc": colour if score.publishable else "white",
        "capsize": 3,
        "elinewidth": 1.2,
    }


def _draw_level(axes: Axes, scores: list[Score], upright: bool) -> None:
    """The floor as a band of one standard deviation around a line."""
    level = next((score.level for score in scores if score.level), None)
    if level is None:
        return
    line, band = (axes.axvline, axes.axvspan) if upright else (axes.axhline, axes.axhspan)
    line(level.value, color=FLOOR, lw=1.4, ls=LINES[level.kind])
    spread = level.deviation or 0.0
    if spread > 0:
        band(level.value - spread, level.value + spread, color=FLOOR, alpha=0.3, lw=0)


def _finish(axes: Axes, title: str, upright: bool) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(axis="x" if upright else "y", useOffset=False, style="plain")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(figure: Figure, result: Result, curve: bool) -> None:
    """What the lines of the panels are."""
    from matplotlib.lines import Line2D

    scores = [score for each in result.sets for score in each.scores]
    levels = [score.level for score in scores if score.level]
    entries = []
    line = "-" if curve else ""
    if any(score.publishable for score in scores):
        entries.append(Line2D([], [], marker="o", color=POINT, ls=line, label="score ± SD"))
    if has_too_few(result):
        label = "score ± SD, too few videos"
        entries.append(Line2D([], [], marker="o", color=WEAK, mfc="white", ls="", label=label))
    entries += _level_entries(levels)
    if curve and any(each.held_out for each in result.sets):
        entries.append(Line2D([], [], color="#555555", ls=":", label="held-out real videos"))
    figure.legend(
        handles=entries, loc="outside lower left", ncols=len(entries), fontsize=8, frameon=False
    )


def _level_entries(levels: list[Level]) -> list[Any]:
    from matplotlib.lines import Line2D

    kinds = {level.kind for level in levels}
    entries = []
    if "halves" in kinds:
        entries.append(Line2D([], [], color=FLOOR, label="floor: halves of the real videos"))
    if "expected" in kinds:
        entries.append(Line2D([], [], color=FLOOR, ls=":", label="expected of new videos"))
    if "real" in kinds:
        entries.append(Line2D([], [], color=FLOOR, ls="--", label="the real videos' own score"))
    return entries
