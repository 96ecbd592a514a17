"""The page of a scene: what went in, the judge's word, what came out, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.reconstruction.cameras.judge import Limits
from tools.reporting.media import embedded
from tools.reporting.page import (
    charts,
    folded,
    heading,
    page,
    picture,
    section,
    stamp,
    table,
)
from tools.training.files import whole_file

if TYPE_CHECKING:
    from tools.reconstruction.results.files import Story

KINDS = {
    "colmap": "COLMAP's cameras accepted",
    "given": "cameras given",
    "fixed": "one fixed camera",
    "refused": "refused",
}
MEANING = {
    "colmap": "The camera's path was found from the pictures, and the judge trusts it.",
    "given": "The camera's path was known beforehand; nothing had to be judged.",
    "fixed": "One camera stands still for all frames; every change is a deformation of the tissue. "
    "Depth then comes from the depth source alone, not from parallax.",
    "refused": "No camera path can be trusted, so no scene was made.",
}
LIMITS = Limits()
# figure -> what it says, and the limit that it is held against
FIGURES = {
    "motion_median": (
        "motion of verified matches, share of the width",
        f"{LIMITS.motion:g} or more",
    ),
    "motion_pairs": ("verified pairs of frames", ""),
    "motion_possible": ("pairs of frames", ""),
    "motion_together": (
        "frames tied together by such pairs",
        f"{LIMITS.frames_share:.0%} for one fixed camera",
    ),
    "explained": ("matched features that belong to a point", f"{LIMITS.explained:.0%} or more"),
    "motion_features": ("features in a frame", ""),
    "motion_frames": ("frames of the clip", ""),
    "frames": ("frames with a pose", f"{LIMITS.frames_share:.0%}, at least {LIMITS.frames}"),
    "points": ("points", f"{LIMITS.points} or more"),
    "track": ("frames that see a point", f"{LIMITS.track:g} or more"),
    "reprojection": (
        "points off from where they were seen, pixels",
        f"{LIMITS.reprojection:g} or less",
    ),
    "view": ("field of view, degrees", f"{LIMITS.view[0]:g} to {LIMITS.view[1]:g}"),
    "angle": ("angle at which rays meet, degrees", f"{LIMITS.angle:g} or more"),
    "jump": ("longest step over median step of the camera", f"{LIMITS.jump:g} or less"),
    "travel": ("path of the camera, in median depths", ""),
    "behind": ("points behind a camera that saw them", ""),
    "mapper": ("mapper of COLMAP", ""),
    "models": ("frames of COLMAP's models", ""),
}
LINES = 100  # points of a curve of the fit


def write_report(folder: Path, story: Story, metrics: Mapping[str, Any]) -> None:
    """Write report.html: one file that needs nothing beside it."""
    verdict = metrics["verdict"]
    parts = [heading(_title(story), MEANING[verdict["kind"]], _facts(metrics))]
    if verdict["kind"] == "refused":
        parts.append(stamp("; ".join(story.found.verdict.reasons)))
        parts.append(picture(folder / "contact_sheet.png", "frames of the clip"))
        if story.found.verdict.advice:
            parts.append(section("What may help", story.found.verdict.advice))
    else:
        parts += _films(folder, story, metrics)
        parts.append(_quality(metrics))
    parts.append(_judge(verdict, story.settings.cameras.judge))
    if story.history:
        parts.append(_curves(story.history))
    parts.append(_settings(folder))
    with whole_file(folder / "report.html") as file:
        file.write(page(_title(story), parts).encode())


def _title(story: Story) -> str:
    return f"Reconstruction of {story.clip.name}"


def _facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    facts = {"cameras": KINDS[metrics["verdict"]["kind"]], "frames": str(len(metrics["frames"]))}
    test, training = metrics.get("test"), metrics.get("training")
    if test:
        facts[f"PSNR of {test['count']} unseen frames"] = f"{test['psnr']:.1f} dB"
    if training:
        facts["PSNR of fitted frames"] = f"{training['psnr']:.1f} dB"
    if metrics.get("depth_error"):
        facts["depth error"] = f"{metrics['depth_error']['relative']:.1%}"
    if metrics.get("gaussians"):
        facts["Gaussians"] = f"{metrics['gaussians']:,}"
    total = sum(metrics["seconds"].values())
    facts["time"] = f"{total:.0f} s" if total < 120 else f"{total / 60:.0f} min"
    return facts


def _films(folder: Path, story: Story, metrics: Mapping[str, Any]) -> list[str]:
    distance = story.settings.output.novel_distance
    note = (
        ""
        if metrics.get("depth_unit") is None
        else f" Depth given to the fit: {metrics['depth_unit']}."
    )
    before = section(
        "Before and after",
        "Left what went in, then the scene through the same cameras, and its depth (near is warm; "
        f"one range of colours for the whole clip).{note}",
        _film(folder / "side_by_side.mp4"),
    )
    aside = section(
        "From elsewhere",
        f"The same path, each camera moved by up to {distance:.0%} of the median depth. Nothing "
        f"was fitted to these views, so holes and smears show what the clip did not tell.",
        _film(folder / "novel.mp4", 720),
    )
    parts = [before, aside]
    if (folder / "novel_truth.mp4").is_file():
        parts.append(
            section(
                "From elsewhere, against the truth",
                "The simulator seen from places where no camera was, and the scene from there.",
                _film(folder / "novel_truth.mp4", 720),
            )
        )
    sheet = picture(folder / "contact_sheet.png", "frames of the input and of the scene")
    depth = section(
        "Depth", "With its scale, in the unit of the cameras.", _film(folder / "depth.mp4", 420)
    )
    return [*parts, depth, section("Frame by frame", "", sheet)]


def _film(path: Path, width: int = 0) -> str:
    """A running video as wide as the page, or at most `width` pixels."""
    style = f"width: min(100%, {width}px)" if width else "width: 100%"
    return (
        f'<div class="card"><video src="{embedded(path)}" title="{escape(path.stem)}" '
        f'style="{style}; display: block; margin: 0 auto" autoplay loop muted playsinline>'
        f"</video></div>\n"
    )


def _quality(metrics: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = [("what", "PSNR", "SSIM", "LPIPS", "of")]
    for name, title in (("test", "frames kept from the fit"), ("training", "fitted frames")):
        if metrics.get(name):
            rows.append((title, *_scores(metrics[name])))
    novel = metrics.get("novel_error")
    if novel and novel["all"]:
        rows.append(("views from elsewhere, against truth", *_scores(novel["all"])))
    if novel and novel["covered"]:
        share = f"; {novel['covered_share']:.0%} of the pixels"
        rows.append(("of them where the scene is solid", *_scores(novel["covered"], share)))
    parts = [table(rows, header=True)]
    truths = [*_depth_rows(metrics), *_pose_rows(metrics.get("pose_error"))]
    if truths:
        parts.append(table(truths))
    return section(
        "How good it is",
        "PSNR and SSIM are of the pixels outside of masks (black border, highlights, your masks). "
        "Frames kept from the fit lie between fitted ones, which flatters; views from elsewhere do "
        "not.",
        *parts,
    )


def _scores(quality: Mapping[str, Any], note: str = "") -> tuple[str, ...]:
    lpips = quality.get("lpips")
    return (
        f"{quality['psnr']:.2f} dB",
        "-" if quality["ssim"] is None else f"{quality['ssim']:.3f}",
        "no weights" if lpips is None else f"{lpips:.3f}",
        f"{quality['count']} frames{note}",
    )


def _depth_rows(metrics: Mapping[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    novel = (metrics.get("novel_error") or {}).get("depth")
    for title, error in (("depth", metrics.get("depth_error")), ("depth from elsewhere", novel)):
        if error:
            text = (
                f"{error['relative']:.1%} mean relative error, {error['within']:.0%} of pixels "
                f"within a factor of 1.25, correlation of inverse depths "
                f"{error['correlation']:.3f}; aligned by: {error['alignment']}"
            )
            rows.append((title, text))
    return rows


def _pose_rows(error: Mapping[str, Any] | None) -> list[Sequence[str]]:
    if not error:
        return []
    share = "" if error["share_of_path"] is None else f", {error['share_of_path']:.2%} of its path"
    return [
        (
            "cameras",
            f"{error['position_rmse']:.3g} off{share}; {error['turn_degrees']:.2f} degrees turned; "
            f"field of view {error['view_degrees']:.1f} (true {error['true_view_degrees']:.1f}); "
            f"{error['frames']} poses after the similarity that fits best",
        )
    ]


def _judge(verdict: Mapping[str, Any], asked: bool) -> str:
    figures = verdict["figures"]
    rows: list[Sequence[str]] = [("figure", "found", "limit")]
    for name, value in figures.items():
        title, limit = FIGURES.get(name, (name.replace("_", " "), ""))
        rows.append((title, _figure(value), limit))
    text = ""
    if verdict["kind"] != "refused":  # whose reasons stand at the top
        sentences = [f"{reason[:1].upper()}{reason[1:]}." for reason in verdict["reasons"]]
        text = " ".join([*sentences, verdict["advice"]])
    if not asked:
        text = f"The judge was off: COLMAP's model was kept whatever its figures. {text}"
    return section("The judge", text, table(rows, header=True) if figures else "")


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(each) for each in value)
    return str(value)


def _curves(history: Sequence[Mapping[str, float]]) -> str:
    """Losses and the number of Gaussians over the steps, each a mean over a stretch."""
    length = max(1, -(-len(history) // LINES))
    names = [name for name in history[-1] if name != "step"]
    drawn = {}
    for name in names:
        points = []
        for start in range(0, len(history), length):
            part = [row for row in history[start : start + length] if name in row]
            if part:
                mean = sum(float(row[name]) for row in part) / len(part)
                points.append((float(part[-1]["step"]), mean))
        if points and (name in ("loss", "gaussians", "colour", "depth")):
            drawn[name] = {name: points}
    return section("The fit", "", charts(drawn)) if drawn else ""


def _settings(folder: Path) -> str:
    text = (folder / "settings.json").read_text()
    return folded("all settings", f"<pre>{escape(text)}</pre>")
