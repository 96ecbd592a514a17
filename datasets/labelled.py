"""Videos with one label each: 1 abnormal, 0 normal. Lists of them, and subsets to learn from."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from datasets.array_io import ARRAY_SUFFIXES
from datasets.image_io import IMAGE_SUFFIXES
from datasets.sources import ArrayFile, FrameFolder, Source, VideoFile, find_sources
from datasets.video_io import VIDEO_SUFFIXES

NORMAL, ABNORMAL = 0, 1
CLASS_NAMES = {NORMAL: "normal", ABNORMAL: "abnormal"}
BELOW = ("", "videos")  # where below the folder of a data set the names of a list are looked for
SUFFIXES = (*VIDEO_SUFFIXES, *ARRAY_SUFFIXES, "")  # tried in turn where a name has none


@dataclass(frozen=True)
class LabelledVideo:
    """A video file, an array, or a folder of frames, and what it shows (1: abnormal)."""

    path: Path
    label: int


def read_labelled(folder: Path, list_file: Path) -> list[LabelledVideo]:
    """The videos of a list, in its order.

    Two kinds of list: lines `FILE,LABEL` without a header, as PolypDiag is published, and tables
    with the columns name and label among others, as `tools.simulate` writes them. A name is
    relative to `folder` or to its folder `videos`, and may lack its suffix. Empty lines and those
    that begin with # count for nothing.

    Raises:  FileNotFoundError for a list or videos that are not there; ValueError for labels
             other than 0 and 1, a video named twice, a name that leaves the folder, an empty list
             and a list of one class
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of labelled videos")
    if not list_file.is_file():
        raise FileNotFoundError(f"{list_file}: no such list of labelled videos")
    videos: list[LabelledVideo] = []
    missing: list[str] = []
    lines: dict[Path, int] = {}
    for number, name, label in _rows(list_file):
        if label not in ("0", "1"):
            raise ValueError(
                f"{list_file}: line {number}: a label is 0 (normal) or 1 (abnormal), got {label!r}"
            )
        path = _find(folder, name, f"{list_file}: line {number}")
        if path is None:
            missing.append(name)
            continue
        real = path.resolve()
        if real in lines:
            raise ValueError(
                f"{list_file}: line {number}: {name} is on line {lines[real]} already; "
                "name every video once"
            )
        lines[real] = number
        videos.append(LabelledVideo(path, int(label)))
    if missing:
        raise FileNotFoundError(
            f"{list_file}: {len(missing)} of its {len(missing) + len(videos)} videos are not in "
            f"{folder}, such as {missing[0]}"
        )
    _require_both_classes(list_file, videos)
    return videos


def choose_labelled(
    videos: Sequence[LabelledVideo], per_class: int, seed: int | Literal["first"]
) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """Divide videos into those whose labels are learned from, and the rest.

    Of each class `per_class` are labelled: at random, or with "first" those that come first. With
    one seed, a smaller set is part of every larger one. Both parts keep the order of `videos`.

    Raises:  ValueError where a class has fewer, naming it and its number
    """
    if per_class < 1:
        raise ValueError(f"labelled videos of each class: at least 1, got {per_class}")
    chosen: set[int] = set()
    for label, name in CLASS_NAMES.items():
        members = [k for k, video in enumerate(videos) if video.label == label]
        if len(members) < per_class:
            raise ValueError(
                f"{per_class} labelled videos of each class are wanted, but only {len(members)} "
                f"are {name}; ask for fewer"
            )
        if seed != "first":
            order = np.random.default_rng((seed, label)).permutation(len(members))
            members = [members[k] for k in order]
        chosen.update(members[:per_class])
    labelled = [video for k, video in enumerate(videos) if k in chosen]
    rest = [video for k, video in enumerate(videos) if k not in chosen]
    return labelled, rest


def unlabelled_videos(folder: Path) -> list[Path]:
    """All videos below a folder, in natural order: files, arrays, and folders of frames.

    Raises:  FileNotFoundError where there is no such folder, ValueError where it has no video
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of unlabelled videos")
    sources = find_sources(folder, arrays=True)
    if not sources:
        raise ValueError(f"{folder}: no videos in it to use without labels")
    return [source.path for source in sources]


def open_video(path: Path) -> Source:
    """A video file, an array or a folder of frames, ready to be read.

    Raises:  FileNotFoundError where there is nothing, ValueError where it is no video
    """
    if path.is_dir():
        images = [entry.name for entry in path.iterdir() if _is_image(entry)]
        if not images:
            raise ValueError(f"{path}: a folder without images is not a video")
        return FrameFolder(path.name, path, images)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video")
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return ArrayFile(path.stem, path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFile(path.stem, path)
    raise ValueError(f"{path}: not a video; known are {', '.join(VIDEO_SUFFIXES + ARRAY_SUFFIXES)}")


def shared_files(first: Iterable[Path], second: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of a video of the first set and one of the second that are the same.

    The same file, reached by whatever name, or one with the same bytes: a copy of a test video
    among those learned from is as bad. Only files of equal sizes are read. Folders are compared
    by their place alone.
    """
    others = list(second)
    places = {path.resolve(): path for path in others}
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in others:
        if path.is_file():
            sizes[path.stat().st_size].append(path)
    digests: dict[Path, str] = {}
    shared = []
    for path in first:
        same = places.get(path.resolve())
        if same is None and path.is_file():
            alike = sizes.get(path.stat().st_size, [])
            same = next((o for o in alike if _digest(o, digests) == _digest(path, digests)), None)
        if same is not None:
            shared.append((path, same))
    return shared


def require_apart(first: Iterable[Path], second: Iterable[Path], *, names: tuple[str, str]) -> None:
    """Refuse two sets that share a video; `names` says what they are.

    Raises:  ValueError naming the number of shared videos and one of them
    """
    shared = shared_files(first, second)
    if shared:
        one, other = shared[0]
        as_well = "" if one == other else f" (there {other})"
        raise ValueError(
            f"{len(shared)} of the {names[0]} videos are {names[1]} videos as well, such as "
            f"{one}{as_well}; results would mean nothing"
        )


def _rows(list_file: Path) -> Iterator[tuple[int, str, str]]:
    """Number of the line, name and label of each entry."""
    try:
        text = list_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{list_file}: not a list of videos: no text in UTF-8") from None
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    rows = [(number, next(csv.reader([line]))) for number, line in lines]
    if not rows:
        raise ValueError(f"{list_file}: the list names no videos")
    header = [cell.strip() for cell in rows[0][1]]
    name_at, label_at, width = 0, 1, 2
    if {"name", "label"} <= set(header):
        name_at, label_at, width = header.index("name"), header.index("label"), len(header)
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{list_file}: the list names no videos")
    for number, cells in rows:
        if len(cells) != width or not cells[name_at].strip():
            raise ValueError(
                f"{list_file}: line {number}: expected FILE,LABEL or a table with the columns name "
                f"and label, got {','.join(cells)!r}"
            )
        yield number, cells[name_at].strip(), cells[label_at].strip()


def _find(folder: Path, name: str, place: str) -> Path | None:
    """The video that a list means, None where there is none."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{place}: {name} leaves the folder {folder}; names must stay inside it")
    for below in BELOW:
        path = folder / below / relative
        if path.exists():
            return path
        for suffix in SUFFIXES:
            longer = path.with_name(path.name + suffix)
            if longer.is_file():
                return longer
    return None


def _require_both_classes(list_file: Path, videos: Sequence[LabelledVideo]) -> None:
    found = {video.label for video in videos}
    if len(found) < len(CLASS_NAMES):
        only = CLASS_NAMES[found.pop()]
        raise ValueError(
            f"{list_file}: all {len(videos)} videos are {only}; videos of both classes are needed"
        )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _digest(path: Path, known: dict[Path, str]) -> str:
    """SHA-256 of a file; `known` keeps what was computed before."""
    if path not in known:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
        known[path] = digest.hexdigest()
    return known[path]
