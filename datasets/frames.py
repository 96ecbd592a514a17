"""Videos -> folders of frames, and folders of frames -> list files.

A folder of frames is written under `.partial` in the target and renamed when it is whole, so a
folder with its final name is finished. Beside its frames it holds `source.json`: which video,
its size, and the settings.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from configs.errors import naming
from datasets.image_io import ImageFormat, write_image
from datasets.parallel import in_processes, only_run
from datasets.sources import FrameFolder, Source, find_sources, natural_key
from datasets.transforms import resize_centre_crop
from datasets.video_io import VIDEO_SUFFIXES

Status = Literal["written", "present", "too short", "broken"]

PARTIAL = ".partial"
MANIFEST = "source.json"
REPORT = "process_report.csv"
FPS_REPORT = "video_fps.csv"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionSettings:
    """What shapes the extracted frames."""

    target_size: int = 128  # pixels, height and width
    fps: float | None = None  # frames per second to resample to; None keeps every frame
    image_format: ImageFormat = "jpg"
    min_frames: int = 16  # a video with fewer is left out

    def __post_init__(self) -> None:
        if self.target_size < 1:
            raise ValueError(f"--target_size: at least 1 pixel, got {self.target_size}")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"--force_fps: above 0, got {self.fps:g}")
        if self.min_frames < 1:
            raise ValueError(f"--min_frames: at least 1, got {self.min_frames}")

    def describe(self) -> dict[str, Any]:
        """What must be equal for frames to be the same."""
        return {key: value for key, value in asdict(self).items() if key != "min_frames"}


@dataclass(frozen=True)
class Outcome:
    """What became of one video."""

    name: str
    status: Status
    frames: int = 0
    fps: float | None = None  # of the extracted frames
    reason: str = ""


def find_videos(source: Path, target: Path | None, suffixes: Sequence[str] = ()) -> list[Source]:
    """The videos to process below `source`, each with a name of its own.

    Raises:  FileNotFoundError, ValueError where there are none or two share a name
    """
    suffixes = [f".{suffix.lower().lstrip('.')}" for suffix in suffixes] or list(VIDEO_SUFFIXES)
    sources = find_sources(source, suffixes=suffixes, exclude=target)
    if not sources:
        raise ValueError(f"{source}: no {' '.join(suffixes)} files and no folders of images in it")
    by_name: dict[str, Source] = {}
    for found in sources:
        if found.name in by_name:
            raise ValueError(
                f"{by_name[found.name].path} and {found.path} would share the frames folder "
                f"{found.name}; rename one, or choose one kind with --video_ext"
            )
        by_name[found.name] = found
    for name in by_name:
        for parent in Path(name).parents:
            if parent.as_posix() in by_name:
                raise ValueError(
                    f"the frames of {by_name[name].path} would lie inside those of "
                    f"{by_name[parent.as_posix()].path}; rename one"
                )
    return sources


def extract_all(
    sources: Sequence[Source],
    target: Path,
    settings: ExtractionSettings,
    *,
    workers: int = 1,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Extract what is missing, yielding each outcome as it comes; then write the report.

    Raises:  ValueError where the target holds frames made in another way, OSError where it
             cannot be written or another run is at it
    """
    with naming(target):
        target.mkdir(parents=True, exist_ok=True)
    with only_run(target):
        shutil.rmtree(target / PARTIAL, ignore_errors=True)  # of a run that was killed
        finished, waiting = _divide(sources, target, settings, overwrite)
        yield from finished
        outcomes = list(finished)
        extract = partial(_extract_or_explain, target=target, settings=settings)
        for outcome in in_processes(extract, waiting, workers):
            outcomes.append(outcome)
            yield outcome
        write_report(target / REPORT, outcomes)
        shutil.rmtree(target / PARTIAL, ignore_errors=True)


def extract(source: Source, target: Path, settings: ExtractionSettings) -> Outcome:
    """Write the frames folder of one video, whole or not at all.

    Raises:  ValueError naming the file where the video is broken, OSError where the frames
             cannot be written
    """
    count = source.count()
    if settings.fps is None and count < settings.min_frames:
        return _too_short(source, count, settings)
    folder = target / PARTIAL / source.name.replace("/", "%")
    shutil.rmtree(folder, ignore_errors=True)
    with naming(folder):
        folder.mkdir(parents=True)
    written = decoded = 0
    for frame in source.iterate(settings.fps):
        decoded += 1
        small = resize_centre_crop(frame[None], settings.target_size)[0]
        write_image(folder / f"{written:06d}.{settings.image_format}", small)
        written += 1
    if settings.fps is None and decoded != count:
        raise ValueError(f"{source.path}: only {decoded} of {count} frames can be decoded")
    if written < settings.min_frames:
        shutil.rmtree(folder)
        return _too_short(source, written, settings)
    fps = settings.fps or source.fps()
    manifest = _manifest(source, settings) | {"frames": written, "fps": fps}
    with naming(target / source.name):
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _move_into_place(folder, target / source.name)
    return Outcome(source.name, "written", written, fps)


def measure_fps(sources: Sequence[Source], *, workers: int = 1) -> Iterator[Outcome]:
    """Frame count and mean frame rate of each video, without decoding."""
    yield from in_processes(_measure_or_explain, sources, workers)


def write_report(path: Path, outcomes: Iterable[Outcome]) -> None:
    """One line a video: name, status, frames, frames per second, reason.

    Raises:  OSError naming the file where it cannot be written
    """
    temporary = path.with_suffix(".partial")
    rows = [
        [o.name, o.status, o.frames, "" if o.fps is None else f"{o.fps:.3f}", o.reason]
        for o in sorted(outcomes, key=lambda outcome: natural_key(outcome.name))
    ]
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["video", "status", "frames", "fps", "reason"], *rows])
        temporary.replace(path)


def write_list(frames: Path, list_file: Path) -> tuple[int, int]:
    """List every frame below a folder, relative to the list's own folder, in natural order.

    Output:  (videos, frames) listed
    Raises:  FileNotFoundError, ValueError where there are no frames or they lie outside the
             folder of the list, OSError naming the list where it cannot be written
    """
    sources = find_sources(frames, videos=False)
    folders = [source for source in sources if isinstance(source, FrameFolder)]
    if not folders:
        raise ValueError(f"{frames}: no folders of frames in it; make them with process_data.py")
    root = list_file.resolve().parent
    if not frames.resolve().is_relative_to(root):
        raise ValueError(
            f"{list_file}: a list holds paths below its own folder, and {frames} is elsewhere; "
            f"write it to {frames / list_file.name}"
        )
    # Links inside the frames folder keep the name they have there.
    prefix = frames.resolve().relative_to(root)
    lines = [
        (prefix / source.path.relative_to(frames) / source.image(index).name).as_posix()
        for source in folders
        for index in range(source.count())
    ]
    temporary = list_file.with_name(f".{list_file.name}.partial")
    with naming(list_file):
        list_file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(list_file)
    return len(folders), len(lines)


# ---------------------------------------------------------------- parts of the above


def _divide(
    sources: Sequence[Source], target: Path, settings: ExtractionSettings, overwrite: bool
) -> tuple[list[Outcome], list[Source]]:
    """(outcomes of the finished videos, the videos still to extract)."""
    finished: list[Outcome] = []
    waiting: list[Source] = []
    for source in sources:
        folder = target / source.name
        if not folder.exists() or overwrite:
            waiting.append(source)
            continue
        found = _read_manifest(folder)
        expected = _manifest(source, settings)
        if found.get("settings") != expected["settings"]:
            raise ValueError(
                f"{folder}: its frames were made with other settings or by another program; "
                f"choose another folder, or --overwrite to make them anew"
            )
        if found.get("bytes") != expected["bytes"]:
            logger.warning("%s: the video has changed; extracting it anew", source.path)
            waiting.append(source)
        else:
            finished.append(Outcome(source.name, "present", found["frames"], found["fps"]))
    return finished, waiting


def _extract_or_explain(source: Source, target: Path, settings: ExtractionSettings) -> Outcome:
    try:
        return extract(source, target, settings)
    except (ValueError, FileNotFoundError) as error:
        shutil.rmtree(target / PARTIAL / source.name.replace("/", "%"), ignore_errors=True)
        return Outcome(source.name, "broken", reason=str(error))


def _measure_or_explain(source: Source) -> Outcome:
    try:
        return Outcome(source.name, "present", source.count(), source.fps())
    except (ValueError, FileNotFoundError) as error:
        return Outcome(source.name, "broken", reason=str(error))


def _too_short(source: Source, frames: int, settings: ExtractionSettings) -> Outcome:
    reason = f"{source.path}: {frames} frames, fewer than --min_frames {settings.min_frames}"
    return Outcome(source.name, "too short", frames, reason=reason)


def _manifest(source: Source, settings: ExtractionSettings) -> dict[str, Any]:
    return {
        "source": source.path.name,
        "bytes": source.size_on_disk(),
        "settings": settings.describe(),
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _move_into_place(folder: Path, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        old = folder.with_name(f"{folder.name}.old")
        final.replace(old)
        folder.replace(final)
        shutil.rmtree(old)
    else:
        folder.replace(final)
