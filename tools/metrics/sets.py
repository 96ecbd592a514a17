"""Sets of videos: a folder, a list, the samples of a run and the data that the run trained on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from configs.load import merge_sources
from datasets.array_io import ARRAY_SUFFIXES
from datasets.image_io import IMAGE_SUFFIXES
from datasets.sources import Source, find_sources, read_list
from datasets.video_io import VIDEO_SUFFIXES
from tools.training.weights import read_weights

ROOT = Path(__file__).resolve().parents[2]
RECORD = "samples.json"  # what sampling writes beside its videos
SETTINGS = "config.yaml"  # what training writes into a run folder
SAMPLES = "samples"  # where sampling puts its folders in a run folder
LOSSLESS_IMAGES = ("png", "bmp", "tif", "tiff")

Layout = Literal["auto", "videos", "frames"]


@dataclass(frozen=True)
class VideoSet:
    """At least two videos that are evaluated together.

    Attributes:
        name     what it is called in outputs
        path     folder, or list file
        sources  the videos, in natural order of their names; no name twice
        kind     how they are stored: "mp4", or "mp4, png" where both occur
        record   the content of samples.json, None where there is none
        remarks  sentences for the report, such as which of several formats was read
    """

    name: str
    path: Path
    sources: Sequence[Source]
    kind: str
    record: Mapping[str, Any] | None = None
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class RealData:
    """What a run trained on, as its settings say; `open_real` opens it."""

    path: Path  # folder, or list file
    layout: Layout
    frame_interval: int  # source frames from one frame of a training clip to the next
    frames: int
    size: int  # pixels of height and width
    settings: Path  # where this stands


@dataclass(frozen=True)
class Generated:
    """Generated videos, and what is known of their generator.

    Attributes:
        set              the videos
        training_stride  source frames between neighbouring frames of a training clip; None where
                         nothing tells
        real             what the generator trained on; None where nothing tells
        step             training step of the weights
        label            short name for tables and plots
    """

    set: VideoSet
    training_stride: int | None
    real: RealData | None
    step: int | None
    label: str


def open_set(path: Path, layout: Layout = "auto") -> VideoSet:
    """The videos below a folder: video files, folders of frames, arrays; or those of a list file.

    A video that is there in several formats (the same name but for the suffix) counts once: its
    array before lossless images, a video file, JPEG images, and a GIF.

    Raises:  FileNotFoundError, ValueError in one line, for fewer than two videos too
    """
    found = _find(path, layout)
    record = _read_record(path / RECORD) if (path / RECORD).is_file() else None
    best, remarks = _best_of_each(found)
    if record is not None:
        best = _recorded(path, record, best)
    if len(best) < 2:
        raise ValueError(
            f"{path}: only one video in it ({best[0].path.name}); a set needs at least two"
        )
    kinds = Counter(source.container() for source in best)
    kind = ", ".join(sorted(kinds))
    if len(kinds) > 1:
        remarks.append(
            f"{path}: stored in different ways: "
            + ", ".join(f"{count} {each}" for each, count in sorted(kinds.items()))
        )
    return VideoSet(str(path), path, best, kind, record, tuple(remarks))


def open_real(data: Path | RealData) -> VideoSet:
    """Real videos: a folder, a list file, or what a run trained on.

    Raises:  as `open_set`; FileNotFoundError where a run's data are gone
    """
    if not isinstance(data, RealData):
        return open_set(data)
    if not data.path.exists():
        raise FileNotFoundError(
            f"{data.settings}: the data set it names, {data.path}, does not exist (any more); "
            f"say where the real videos are with --real_path"
        )
    return open_set(data.path, data.layout)


def open_generated(path: Path) -> Generated:
    """Generated videos: any folder of videos, a folder of samples, or a run folder.

    Of a run folder the newest complete folder in `samples` is taken: that of the highest step.

    Raises:  as `open_set`; also where a sampling job is unfinished or a run has no samples
    """
    if (path / RECORD).is_file():
        return _open_samples(path, path.name)
    if _is_run(path) or (path.name == SAMPLES and _is_run(path.parent)):
        run = path if _is_run(path) else path.parent
        return _open_samples(_newest_samples(run), run.name)
    inside = sorted(folder.parent.name for folder in path.glob(f"*/{RECORD}"))
    if len(inside) > 1:
        raise ValueError(
            f"{path}: holds several folders of samples ({', '.join(inside)}); name one of them"
        )
    if inside:
        return _open_samples(path / inside[0], path.name)
    return Generated(open_set(path), None, None, None, path.name)


# ---------------------------------------------------------------- the videos of a folder


def _find(path: Path, layout: Layout) -> list[Source]:
    if path.is_file():
        if path.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *ARRAY_SUFFIXES):
            raise ValueError(f"{path}: one file; name a folder of at least two videos, or a list")
        return read_list(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or list")
    videos, frames = layout in ("auto", "videos"), layout in ("auto", "frames")
    found = find_sources(path, videos=videos, frames=frames, arrays=videos)
    if not found:
        kinds = {"videos": "video files", "frames": "folders of frames"}
        wanted = kinds.get(layout, "video files, folders of frames or arrays (`video` in .npz)")
        raise ValueError(f"{path}: no {wanted} in it")
    return found


def _best_of_each(found: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """One source for each name, and what there is to say of the others."""
    best: dict[str, Source] = {}
    formats: Counter[str] = Counter()
    for source in found:
        other = best.get(source.name)
        if other is None:
            best[source.name] = source
            continue
        first, second = sorted((other, source), key=_rank)
        best[source.name] = first
        formats[
            f"as {first.container()} and {second.container()}, {first.container()} is read"
        ] += 1
    remarks = [f"{count} videos are there {text}" for text, count in sorted(formats.items())]
    return list(best.values()), remarks


def _rank(source: Source) -> int:
    """0 for the exact pixels; the higher, the more was lost."""
    container = source.container()
    if f".{container}" in ARRAY_SUFFIXES:
        return 0
    if container in LOSSLESS_IMAGES:
        return 1
    if f".{container}" in IMAGE_SUFFIXES:
        return 3
    return 4 if container == "gif" else 2


# ---------------------------------------------------------------- folders of samples


def _read_record(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        good = isinstance(record["videos"], dict) and isinstance(record["made_by"], dict)
        if not good or not isinstance(record["complete"], bool):
            raise ValueError("wrong types")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a record of samples ({error}); make the samples anew, or move the file "
            f"away to evaluate the videos beside it"
        ) from None
    return record


def _recorded(path: Path, record: Mapping[str, Any], found: Sequence[Source]) -> list[Source]:
    """The videos of a finished sampling job, and no other files."""
    kept = [source for source in found if source.name in record["videos"]]
    missing = len(record["videos"]) - len(kept)
    if missing or not record["complete"]:
        raise ValueError(
            f"{path}: the sampling job is not finished, {missing} of {len(record['videos'])} "
            f"videos are missing; run the same sampling command again"
        )
    return kept


def _open_samples(path: Path, label: str) -> Generated:
    videos = open_set(path)
    made_by = (videos.record or {}).get("made_by", {})
    step = made_by.get("step")
    step = step if isinstance(step, int) else None
    real = _training_data(path, videos.record or {})
    return Generated(
        set=videos,
        training_stride=real.frame_interval if real else None,
        real=real,
        step=step,
        label=label if step is None or label.startswith("step_") else f"{label}, step {step}",
    )


# ---------------------------------------------------------------- run folders


def _is_run(path: Path) -> bool:
    return (path / SETTINGS).is_file()


def _newest_samples(run: Path) -> Path:
    """The folder of samples with the highest step; the one written last of equal ones."""
    complete, unfinished = [], 0
    for path in sorted((run / SAMPLES).glob(f"*/{RECORD}")):
        record = _read_record(path)
        if record["complete"]:
            step = record["made_by"].get("step", -1)
            complete.append((step, path.stat().st_mtime_ns, path.parent))
        else:
            unfinished += 1
    if not complete:
        what = f"{unfinished} unfinished sampling jobs" if unfinished else "no samples"
        raise FileNotFoundError(
            f"{run}: {what} in its folder {SAMPLES}; make some with "
            f"python -m sample.sample --checkpoint {run}, or name their folder"
        )
    return max(complete)[2]


def _training_data(samples: Path, record: Mapping[str, Any]) -> RealData | None:
    """What the generator of some samples trained on, from its run folder or its weights."""
    checkpoint = record.get("checkpoint")
    named = Path(checkpoint) if isinstance(checkpoint, str) else None
    near = [named, *named.parents[:2]] if named else []
    for folder in (*near, *samples.parents[:2]):
        if _is_run(folder):
            settings = merge_sources(folder / SETTINGS, ())
            return _real_data(settings, folder / SETTINGS)
    if named is not None and named.is_file():
        return _real_data(read_weights(named).config, named)
    return None


def _real_data(settings: Mapping[str, Any], source: Path) -> RealData:
    try:
        data, clip = settings["data"], settings["clip"]
        named = Path(data["list"] or data["folder"])
        found = RealData(
            path=named,
            layout=data["layout"],
            frame_interval=int(clip["frame_interval"]),
            frames=int(clip["frames"]),
            size=int(clip["size"]),
            settings=source,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: not the settings of a training run: {error}") from None
    # A relative path is meant from where training was started, mostly the root of the project.
    for root in (Path(), ROOT, *source.resolve().parents):
        if not named.is_absolute() and (root / named).exists():
            return replace(found, path=root / named)
    return found
