"""Many scenes in one table, and one scene in a few lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.training.files import whole_file

if TYPE_CHECKING:
    from tools.reconstruction.scene import Outcome

HEAD = ("video", "cameras", "test PSNR, dB", "training PSNR, dB", "Gaussians", "seconds", "reason")


def write_table(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """`scenes.md` and `scenes.csv`: a row for each video."""
    rows = [_row(outcome) for outcome in outcomes]
    table = io.StringIO()
    csv.writer(table).writerows([HEAD, *rows])
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    for name, text in (("scenes.csv", table.getvalue()), ("scenes.md", "\n".join(lines) + "\n")):
        with whole_file(folder / name) as file:
            file.write(text.encode())


def lines_of(metrics: Mapping[str, Any]) -> list[str]:
    """What a terminal shows of a finished scene."""
    verdict = metrics["verdict"]
    lines = [
        f"cameras: {verdict['kind']}, {metrics['posed_frames']} of {len(metrics['frames'])} frames",
        f"scene: {metrics['scene']}, {metrics['gaussians']} Gaussians, {metrics['steps']} steps",
    ]
    for name, title in (("test", "unseen frames"), ("training", "fitted frames")):
        if metrics.get(name):
            lines.append(f"{title}: {_quality(metrics[name])}")
    novel = metrics.get("novel_error")
    if novel:
        lines.append(f"views from elsewhere: {_quality(novel['all'])}")
    error = metrics.get("depth_error")
    if error:
        lines.append(
            f"depth: {error['relative']:.1%} off, aligned by {error['alignment']}; correlation of "
            f"inverse depths {error['correlation']:.3f}"
        )
    poses = metrics.get("pose_error")
    if poses and poses["share_of_path"] is not None:
        lines.append(
            f"cameras: {poses['share_of_path']:.2%} of their path off, "
            f"{poses['turn_degrees']:.2f} degrees turned"
        )
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in metrics["seconds"].items())
    lines.append(f"time: {spent}; memory {metrics['memory_mb']} MB")
    return lines


def _quality(numbers: Mapping[str, Any]) -> str:
    parts = [f"PSNR {numbers['psnr']:.2f} dB"]
    if numbers["ssim"] is not None:
        parts.append(f"SSIM {numbers['ssim']:.3f}")
    if numbers["lpips"] is not None:
        parts.append(f"LPIPS {numbers['lpips']:.3f}")
    return f"{', '.join(parts)} ({numbers['count']} frames)"


def _row(outcome: Outcome) -> list[str]:
    verdict, metrics = outcome.verdict, outcome.metrics
    reason = verdict.text if verdict is not None and verdict.kind != "given" else ""
    if not metrics:
        return [outcome.name, "refused", "", "", "", "", reason]
    quality = [
        f"{metrics[name]['psnr']:.2f}" if metrics.get(name) else "" for name in ("test", "training")
    ]
    seconds = f"{sum(metrics['seconds'].values()):.0f}"
    kind = verdict.kind if verdict is not None else ""
    return [outcome.name, kind, *quality, str(metrics["gaussians"]), seconds, reason]
