"""The files of a finished scene, or of a refusal."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.video_io import write_video
from models.priors.perceptual import PerceptualDistance
from tools.reconstruction.cameras.files import write_cameras, write_colmap
from tools.reconstruction.cameras.pinhole import Cameras
from tools.reconstruction.cameras.search import Found
from tools.reconstruction.depth.files import write_depth_pictures
from tools.reconstruction.depth.sources import DepthMaps, resized_depth
from tools.reconstruction.frames import Clip, Pictures
from tools.reconstruction.preparing import Frames
from tools.reconstruction.results import plot
from tools.reconstruction.results.measuring import (
    link_to_truth,
    measure_depth,
    measure_frames,
    measure_novel,
    measure_poses,
    median_depth,
)
from tools.reconstruction.results.report import write_report
from tools.reconstruction.settings import Reconstruction
from tools.reconstruction.splatting.fit import Fit
from tools.reconstruction.splatting.rendering import Film, every_camera, film, novel_path
from tools.reconstruction.splatting.scene_files import write_scene
from tools.reconstruction.truth import Truth
from tools.training.files import whole_file

METRICS, REPORT = "metrics.json", "report.html"
SHEET_FRAMES = 6


@dataclass(frozen=True)
class Story:
    """All that is known about a scene beside the fit itself."""

    clip: Clip
    frames: Frames
    truth: Truth
    settings: Reconstruction
    found: Found
    seconds: dict[str, float]
    cameras: Cameras | None = None  # at the size of the fit
    depth: DepthMaps | None = None
    test: tuple[int, ...] = ()  # frames that no fit has seen
    memory_mb: float = 0.0  # the most that the process held
    history: tuple[Mapping[str, float], ...] = field(default=())  # losses of the steps


def write_refusal(folder: Path, story: Story) -> None:
    """The verdict and a page that shows it, for a clip without a scene."""
    chosen = _spread(len(story.clip.pictures), SHEET_FRAMES)
    pictures = plot.enlarged(story.frames.pictures[chosen], 160)
    names = [f"frame {story.clip.numbers[k]}" for k in chosen]
    write_picture(folder / "contact_sheet.png", plot.sheet({"input": pictures}, names))
    metrics = _frame_of_numbers(story)
    write_json(folder / METRICS, metrics)
    write_report(folder, story, metrics)


def write_results(
    folder: Path,
    story: Story,
    fit: Fit,
    perceptual: PerceptualDistance | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Render, measure and write everything; the numbers of metrics.json."""
    assert story.cameras is not None
    begin = time.perf_counter()
    say("rendering")
    frames, cameras = story.frames, story.cameras
    path = every_camera(cameras, len(frames.pictures))
    times = story.clip.times.tolist()
    rendered = film(fit, path, times)
    middle = median_depth(rendered, frames.masks)
    aside = story.settings.output.novel_distance * middle
    novel = film(fit, novel_path(path, aside), times)
    link = link_to_truth(cameras, rendered, frames, story.truth)
    beside_truth = measure_novel(
        fit, frames, cameras, story.truth, link, story.settings.output.novel_distance, perceptual
    )
    metrics = _frame_of_numbers(story) | {
        "scene": fit.scene,
        "gaussians": len(fit.gaussians()),
        "steps": fit.steps_done,
        "size": list(frames.size),
        "depth_source": None if story.depth is None else story.depth.kind,
        "depth_unit": None if story.depth is None else story.depth.note,
        "median_depth": middle,
        **measure_frames(frames, rendered, cameras.numbers, story.test, perceptual),
        "depth_error": measure_depth(frames, rendered, story.truth, link),
        "pose_error": measure_poses(cameras, story.truth, link),
        "novel_error": beside_truth[0] if beside_truth else None,
    }
    say("writing")
    write_cameras(folder / "cameras.json", _of_video(cameras, story.clip))
    points = story.found.points
    write_colmap(folder / "sparse", cameras, points.positions, points.colours, points.errors)
    write_scene(folder / "scene.ply", fit.gaussians())
    factor = link.scale if link is not None else 1.0
    write_films(folder, story, rendered, novel, factor, beside_truth and beside_truth[1:])
    story.seconds["results"] = time.perf_counter() - begin
    metrics["seconds"] = {name: round(value, 2) for name, value in story.seconds.items()}
    write_json(folder / METRICS, metrics)
    write_report(folder, story, metrics)
    return metrics


def write_films(
    folder: Path,
    story: Story,
    rendered: Film,
    novel: Film,
    factor: float,
    beside_truth: tuple[Film, NDArray[np.uint8]] | None,
) -> None:
    """Videos, depth as pictures and numbers, and the sheet of frames.

    Inputs:  factor from the unit of the scene to that of the truth: both depths have one colour
    """
    clip, frames = story.clip, story.frames
    low, high = plot.depth_range(rendered.depths, frames.masks)

    def coloured(depths: NDArray[np.float32]) -> Pictures:
        return plot.enlarged(plot.coloured_depth(depths, low, high))

    def video(name: str, pictures: Pictures) -> None:
        write_video(folder / f"{name}.mp4", plot.evened(pictures), clip.fps)

    given, seen = plot.enlarged(frames.pictures), plot.enlarged(rendered.pictures)
    shades = coloured(rendered.depths)
    video("rgb", rendered.pictures)
    video("depth", plot.with_scale(shades, low, high))
    columns = {"input": given, "rendered": seen, "depth": shades}
    if story.truth.depths is not None:
        real = resized_depth(story.truth.depths, *frames.size)
        columns["true depth"] = coloured(real / np.float32(factor))
    video("side_by_side", plot.side_by_side(columns))
    aside = {"aside": plot.enlarged(novel.pictures), "depth aside": coloured(novel.depths)}
    video("novel", plot.side_by_side(aside))
    if beside_truth is not None:
        view, real_view = beside_truth
        pair = {"truth aside": plot.enlarged(real_view), "rendered": plot.enlarged(view.pictures)}
        video("novel_truth", plot.side_by_side(pair))
    write_depth_pictures(folder / "depth", rendered.depths)
    write_depth_array(folder / "depth.npz", rendered.depths)
    chosen = _spread(len(clip.pictures), SHEET_FRAMES)
    aside_name = f"{story.settings.output.novel_distance:.0%} aside"
    rows = {**columns, aside_name: aside["aside"]}
    small = {name: _shrunk(pictures[chosen]) for name, pictures in rows.items()}
    names = [f"frame {clip.numbers[k]}" + (", unseen" if k in story.test else "") for k in chosen]
    write_picture(folder / "contact_sheet.png", plot.sheet(small, names))


def write_depth_array(path: Path, depths: NDArray[np.float32]) -> None:
    """`depth` (F, H, W) float32, compressed."""
    packed = io.BytesIO()
    np.savez_compressed(packed, depth=depths)
    with whole_file(path) as file:
        file.write(packed.getvalue())


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """A PNG of (H, W, 3)."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "png")
    with whole_file(path) as file:
        file.write(encoded.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Readable JSON, whole or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _frame_of_numbers(story: Story) -> dict[str, Any]:
    """What is told of every clip, with a scene or without."""
    verdict = story.found.verdict
    return {
        "video": story.clip.name,
        "frames": list(story.clip.numbers),
        "fps": story.clip.fps,
        "verdict": {
            "accepted": verdict.accepted,
            "kind": verdict.kind,
            "reasons": list(verdict.reasons),
            "advice": verdict.advice,
            "figures": dict(verdict.figures),
        },
        "posed_frames": len(story.found.cameras) if story.found.cameras is not None else 0,
        "test_frames": [story.clip.numbers[k] for k in story.test],
        "memory_mb": round(story.memory_mb),
        "seconds": {name: round(value, 2) for name, value in story.seconds.items()},
    }


def _of_video(cameras: Cameras, clip: Clip) -> Cameras:
    """Cameras numbered by frame of the video, as `--poses` reads them."""
    return replace(cameras, numbers=tuple(clip.numbers[k] for k in cameras.numbers))


def _spread(length: int, count: int) -> list[int]:
    count = min(length, count)
    return [round(k * (length - 1) / max(count - 1, 1)) for k in range(count)]


def _shrunk(pictures: Pictures, side: int = 176) -> Pictures:
    height, width = pictures.shape[1:3]
    scale = min(1.0, side / min(height, width))
    size = (round(width * scale), round(height * scale))
    return np.stack(
        [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in pictures]
    )
