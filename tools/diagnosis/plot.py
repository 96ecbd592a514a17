"""The picture of a comparison: a panel for each of three scores, and one of the pseudo-labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tools.diagnosis.measures import LEVEL, MEASURES
from tools.diagnosis.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("auroc", "f1", "balanced_accuracy")
CHANCE = ("auroc", "balanced_accuracy")  # 50 percent without any knowledge
TRAINED, TRIVIAL, SEED = "#2d6fa8", "#9aa5ad", "#8fb8da"
ACCEPTED = "pseudo_accuracy"
CURVES = ("#2d6fa8", "#c2452d", "#3d8b4f", "#e3b23c", "#7d5ba6", "#555555")


def draw(title: str, summaries: Sequence[Summary]) -> bytes:
    """The picture as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height = 2 * (1.3 + 0.32 * max(len(summaries), 3)) + 0.5
    layout = ConstrainedLayoutEngine(hspace=0.06, wspace=0.03)
    figure = Figure(figsize=(10.5, height), dpi=130, layout=layout)
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(
        f"{title}\ndot: mean over seeds; line: {LEVEL:.0%} of bootstrap draws; pale dots: seeds; "
        "grey: trivial rules",
        fontsize=9,
    )
    panels = figure.subplots(2, 2).flat
    for axes, name in zip(panels, SHOWN, strict=False):
        _draw_score(axes, summaries, name)
    _draw_pseudo(panels[len(SHOWN)], summaries)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Title": title, "Software": None})
    return file.getvalue()


def _draw_score(axes: Axes, summaries: Sequence[Summary], name: str) -> None:
    """Rows from top to bottom, percent to the right."""
    for place, each in enumerate(summaries):
        value = each.values[name]
        colour = TRIVIAL if each.row.trivial else TRAINED
        axes.plot(
            [100 * value.interval.low, 100 * value.interval.high], [place] * 2, color=colour, lw=1.6
        )
        if len(value.of_seeds) > 1:
            seeds = [100 * one for one in value.of_seeds]
            axes.plot(seeds, [place + 0.22] * len(seeds), "o", color=SEED, ms=3)
        axes.plot([100 * value.mean], [place], "o", color=colour, ms=6)
    if name in CHANCE:
        axes.axvline(50, color="#cccccc", lw=1, ls=":")
    axes.set_yticks(range(len(summaries)), [each.row.name for each in summaries])
    axes.set_ylim(len(summaries) - 0.4, -0.6)
    _finish(axes, f"{MEASURES[name]}, percent")


def _draw_pseudo(axes: Axes, summaries: Sequence[Summary]) -> None:
    """Share of pseudo-labels that count, and of these the right ones, over the training."""
    drawn = 0
    for each in summaries:
        if not any(history.get("mask_rate") for history in each.row.histories):
            continue
        colour = CURVES[drawn % len(CURVES)]
        drawn += 1
        for name, style in (("mask_rate", "-"), (ACCEPTED, "--")):
            steps, means = _mean_curve(each, name)
            label = each.row.name if name == "mask_rate" else None
            axes.plot(steps, means, style, color=colour, lw=1.3, label=label)
    if drawn:
        axes.set_ylim(0, 102)
        axes.set_xlabel("training step", fontsize=8)
        axes.legend(fontsize=7, frameon=False)
    else:
        axes.text(0.5, 0.5, "no unlabelled videos", transform=axes.transAxes, ha="center")
    _finish(axes, "pseudo-labels used (full), of these right (dashed), percent")


def _mean_curve(summary: Summary, name: str) -> tuple[list[float], list[float]]:
    """Mean over the seeds that have a value at a step."""
    points: dict[float, list[float]] = {}
    for history in summary.row.histories:
        for step, value in history.get(name, ()):
            points.setdefault(step, []).append(100 * value)
    steps = sorted(points)
    return steps, [sum(points[step]) / len(points[step]) for step in steps]


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
