"""The picture of a drift report: a panel for each statistic over time, and one of the seams."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tools.steadiness.frames import FrameValues
from tools.steadiness.summary import STATISTICS, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLES, REAL, SEAM = "#2d6fa8", "#9aa5ad", "#c2452d"
CHANNELS = {"red": "#c2452d", "green": "#3f8f4f", "blue": "#2d6fa8"}
PANELS = {
    "mean": "mean of a channel, grey levels",
    "deviation": "deviation of a channel, grey levels",
    "sharpness": "sharpness, variance of the Laplacian",
    "difference": "difference to first frame, grey levels",
}


def draw(summary: Summary, videos: Sequence[FrameValues], real: Summary | None) -> bytes:
    """The picture as a PNG file. Full lines are samples, dashed lines real videos."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(9.5, 8.0), dpi=130, layout=ConstrainedLayoutEngine(hspace=0.06))
    canvas = FigureCanvasAgg(figure)
    title = f"{summary.name}: {summary.videos} videos of {summary.frames} frames"
    if real is not None:
        title += f"; dashed: {real.videos} real videos of {real.frames} frames"
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(3, 2).flat
    for axes, (kind, label) in zip(panels, PANELS.items(), strict=False):
        for each, style in ((summary, "-"), (real, "--")):
            if each is not None:
                _draw_statistics(axes, each, kind, style)
        axes.set_ylim(bottom=0)
        _finish(axes, label)
    _draw_steps(panels[len(PANELS)], summary, videos)
    _draw_steps_around_seams(panels[len(PANELS) + 1], summary, videos)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Title": title, "Software": None})
    return file.getvalue()


def _draw_statistics(axes: Axes, summary: Summary, kind: str, style: str) -> None:
    middles = [(start + stop - 1) / 2 for start, stop in summary.windows]
    for name in STATISTICS:
        if not name.startswith(kind):
            continue
        colour = CHANNELS.get(name.rpartition(" ")[2], SAMPLES if style == "-" else REAL)
        axes.plot(middles, summary.values[name], style, color=colour, lw=1.4, marker=".", ms=4)


def _draw_steps(axes: Axes, summary: Summary, videos: Sequence[FrameValues]) -> None:
    steps = torch.stack([video.step for video in videos]).mean(0)[1:].tolist()
    axes.plot(range(1, len(steps) + 1), steps, color=SAMPLES, lw=1.0)
    seams = summary.seams.frames if summary.seams else ()
    axes.plot(seams, [steps[seam - 1] for seam in seams], "o", color=SEAM, ms=4)
    axes.set_ylim(bottom=0)
    _finish(axes, "difference to the frame before (dots: at seams)")


def _draw_steps_around_seams(axes: Axes, summary: Summary, videos: Sequence[FrameValues]) -> None:
    """The mean over seams of the frame differences from three before to three after."""
    _finish(axes, "the same around a seam, mean over seams")
    axes.set_xlabel("frames after the seam", fontsize=8)
    if summary.seams is None:
        axes.text(0.5, 0.5, "no seams", transform=axes.transAxes, ha="center", color=REAL)
        return
    steps = torch.stack([video.step for video in videos])
    places = range(-3, 4)
    means = []
    for place in places:
        inside = [s + place for s in summary.seams.frames if 0 < s + place < summary.frames]
        means.append(float(steps[:, inside].mean()) if inside else float("nan"))
    axes.bar(places, means, color=[SEAM if place == 0 else SAMPLES for place in places], width=0.7)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("frame", fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
