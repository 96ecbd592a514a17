"""The pictures of a benchmark: bars of what was gained, and curves of what grows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tools.benchmarking.tables import Row, Section
from tools.benchmarking.timing import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR, BASE, MARK, SECOND = "#2d6fa8", "#9aa5ad", "#c2452d", "#e3b23c"
WIDTH, BAR_HEIGHT, TITLE_HEIGHT = 8.5, 0.3, 0.75  # inches
AXES = {
    "frames": "frames of a clip",
    "pixels": "pixels along a side",
    "items": "items in a step",
    "processes": "processes, with 2 items in all",
}


def draw_gains(sections: Sequence[Section], title: str) -> bytes:
    """A panel of bars for every section with ratios, as a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = [section for section in sections if any(row.ratios for row in section.rows)]
    heights = [BAR_HEIGHT * len(_bars(section)) + TITLE_HEIGHT for section in shown]
    layout = ConstrainedLayoutEngine(hspace=0.04)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), dpi=130, layout=layout)
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)
    for axes, section in zip(panels.flat, shown, strict=True):
        _draw_bars(axes, section)
    handles = [axes.get_legend_handles_labels() for axes in figure.axes]
    marks = [(lines[0], names[0]) for lines, names in handles if lines]
    if marks:
        figure.legend([marks[0][0]], [marks[0][1]], loc="outside lower right", fontsize=8)
    return _png(figure, title)


def draw_growth(section: Section, title: str) -> bytes:
    """Measured times and their floors, a panel for each thing that grows, as a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    series = {key: _points(section.rows, key) for key in AXES}
    series = {key: points for key, points in series.items() if points}
    figure = Figure(figsize=(WIDTH, 6.2), dpi=130, layout=ConstrainedLayoutEngine())
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(2, 2, squeeze=False).flat
    for axes, (key, points) in zip(panels, series.items(), strict=False):
        _draw_curve(axes, key, points)
    for axes in list(panels)[len(series) :]:
        axes.set_axis_off()
    for axes in figure.axes[len(series) :]:
        axes.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return _png(figure, title)


def _bars(section: Section) -> list[Row]:
    return [row for row in section.rows if row.ratios]


def _draw_bars(axes: Axes, section: Section) -> None:
    rows = _bars(section)
    spreads = [Spread.of(row.ratios) for row in rows]
    places = list(range(len(rows)))
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.low for spread in spreads]
    above = [spread.high - spread.median for spread in spreads]
    colours = [BASE if number == 0 else BAR for number in places]
    axes.barh(places, medians, xerr=[below, above], color=colours, height=0.7, ecolor="#333")
    for place, row, spread in zip(places, rows, spreads, strict=True):
        text = f"{spread.median:.2g}" if spread.median < 100 else f"{spread.median:.0f}"
        axes.annotate(
            f"{text}x",
            (max(spread.high, row.predicted or 0), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    marks = [(row.predicted, place) for place, row in zip(places, rows, strict=True)]
    known = [(value, place) for value, place in marks if value is not None]
    if known:
        axes.plot(
            [value for value, _ in known],
            [place for _, place in known],
            "|",
            color=MARK,
            markersize=12,
            markeredgewidth=2,
            label="predicted",
        )
    furthest = max([*[spread.high for spread in spreads], *[value for value, _ in known]])
    if furthest > 8:
        axes.set_xscale("log")
        axes.set_xlim(min(0.8, *medians), furthest * 1.8)
        axes.minorticks_off()
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000) if tick < furthest * 1.8]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
    else:
        axes.set_xlim(0, furthest * 1.15)
    axes.axvline(1, color="#333", linewidth=0.8)
    axes.set_yticks(places, [row.name for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(f"{section.title}: times {section.better}", fontsize=8, loc="left")


def _points(rows: Sequence[Row], key: str) -> list[tuple[int, Row]]:
    """Rows called such as `16 frames`, by their number."""
    parts = [(row.name.split(), row) for row in rows]
    return [(int(words[0]), row) for words, row in parts if key.startswith(words[-1])]


def _draw_curve(axes: Axes, key: str, points: Sequence[tuple[int, Row]]) -> None:
    across = [number for number, _ in points]
    spreads = [Spread.of(row.values) for _, row in points]
    medians = [spread.median for spread in spreads]
    errors = [
        [spread.median - spread.low for spread in spreads],
        [spread.high - spread.median for spread in spreads],
    ]
    axes.errorbar(across, medians, yerr=errors, marker="o", color=BAR, label="measured")
    floors = [row.floors for _, row in points if row.floors]
    for index, (label, colour) in enumerate(
        [("floor: operations / ceiling", MARK), ("floor: bytes / bandwidth", SECOND)]
    ):
        axes.plot(across, [floor[index] for floor in floors], "--", color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xticks(across, [str(number) for number in across])
    low = min(min(floor) for floor in floors) if floors else min(medians)
    ticks = [value for power in range(-5, 5) for value in (10.0**power, 3 * 10.0**power)]
    ticks = [tick for tick in ticks if low / 2 < tick < max(medians) * 2]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.tick_params(labelsize=8)
    axes.set_xlabel(AXES[key], fontsize=8)
    axes.set_ylabel("seconds a step", fontsize=8)
    axes.grid(alpha=0.3)


def _png(figure: Figure, title: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Title": title, "Software": None})
    return file.getvalue()
