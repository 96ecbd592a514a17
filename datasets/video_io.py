"""Read and write video files. The only file that knows decord and av.

The frame at index k is the k-th frame in the order of display, rotated as the file asks. Counts
come from the packets themselves, since containers may lie about them. Pixels are as stored: the
sample aspect ratio is not applied.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datasets.frame_table import CodedFrame, FrameTable, build_table, holds_idr, length_bytes

Backend = Literal["auto", "decord", "pyav"]
Pixels = npt.NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".mpg", ".mpeg", ".m4v", ".webm", ".wmv", ".gif")
# Key frames to start before the nearest one, when that one does not lead to the wanted frame.
LEADS = (0, 1, 4)
# Newer releases of PyAV otherwise start threads for every small picture, at several times its cost,
# and a forked process that then tidies up such a picture waits for ever.
_ONE_THREAD: dict[str, Any] = (
    {"threads": 1} if "threads" in str(av.VideoFrame.reformat.__doc__) else {}
)
BT601 = 6  # the matrix that RGB frames are converted with; untagged files are read with it too

logger = logging.getLogger(__name__)


class UnreliableStamps(Exception):
    """The packets' time stamps do not tell the order of display."""


def write_video(path: Path | str, frames: Pixels, fps: float, crf: int = 12) -> None:
    """Write an H.264 file (yuv420p), whole or not at all.

    Inputs:  frames (F, H, W, 3) uint8 RGB with even H and W, fps > 0, crf 0 (best) to 51
    Raises:  ValueError for other frames
    """
    path = Path(path)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"{path}: expected uint8 (F, H, W, 3), got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: H.264 needs even sides, got {height}x{width}; crop or pad first")
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        with _decodable(path, "cannot be written"), av.open(str(partial), "w") as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.codec_context.colorspace = BT601
            stream.codec_context.thread_count = 1  # the same bytes on every machine
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def frame_count(path: Path | str) -> int:
    """The exact number of frames, found without decoding."""
    return len(frame_table(path))


def frame_table(path: Path | str) -> FrameTable:
    """The frames of a video file, from its packets; nothing is decoded but one frame.

    The newest tables are kept in memory until the file changes.
    Raises:  FileNotFoundError, ValueError where the file is broken, truncated or has no frame
    """
    return _cached_table(*_identity(path))


def read_frames(path: Path | str, indices: Sequence[int], backend: Backend = "auto") -> Tensor:
    """Decode chosen frames, in the order asked for, and as few others as possible.

    "auto" takes PyAV for frames that this process reads for the first time, and decord, where it
    is installed, from then on: decord shows damaged pictures without a word, PyAV refuses them.
    Damage in a picture that is neither wanted nor built on is not noticed.

    Inputs:  indices in the order of display, each in [0, frame_count); repeats are allowed
    Output:  (len(indices), 3, H, W) uint8 RGB, displayed upright
    Raises:  FileNotFoundError, ValueError naming the file where it is damaged, IndexError
    """
    table = frame_table(path)
    outside = [index for index in indices if not 0 <= index < len(table)]
    if outside:
        raise IndexError(f"{path}: frame {outside[0]} asked for, it has {len(table)}")
    wanted = sorted(set(indices))
    pictures = None
    if backend == "decord" or (backend == "auto" and _is_known_sound(path, table, wanted)):
        pictures = _decode_with_decord(path, table, wanted)
    if pictures is None:
        if backend == "decord":
            raise ValueError(f"{path}: decord is not installed or cannot read this file exactly")
        pictures = _decode_with_pyav(path, table, wanted)
    shapes = {picture.shape for picture in pictures.values()}
    if len(shapes) > 1:
        raise ValueError(f"{path}: the frame size changes within the file: {sorted(shapes)}")
    stacked = np.stack([pictures[index] for index in indices])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def iterate_frames(path: Path | str, fps: float | None = None) -> Iterator[Tensor]:
    """All frames in the order of display, one in memory at a time.

    Inputs:  fps resamples by time: frame k is what a player shows k / fps seconds after the
             first frame, so frames repeat or are left out
    Output:  each (3, H, W) uint8 RGB, displayed upright
    Raises:  FileNotFoundError, ValueError naming the file where it is damaged
    """
    if fps is not None and fps <= 0:
        raise ValueError(f"fps: above 0, got {fps}")
    table = frame_table(path)
    with _opened(path) as (container, stream):
        frames = _all_frames(path, container, stream)
        shown = frames if fps is None else _resampled(frames, table, fps)
        for frame in shown:
            yield torch.from_numpy(_upright(frame, table.rotation)).permute(2, 0, 1)


# ---------------------------------------------------------------- the table of frames


def _identity(path: Path | str) -> tuple[str, int, int]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=2048)
def _cached_table(path: str, _size: int, _modified: int) -> FrameTable:
    with _opened(path) as (container, stream):
        packets = _list_packets(path, container, stream)
    with _opened(path) as (container, stream):
        first = next(_all_frames(path, container, stream), None)
        if first is None:
            raise ValueError(f"{path}: no frame of the video can be decoded")
        return build_table(
            packets,
            container=container.format.name,
            codec=stream.codec_context.name,
            time_base=stream.time_base or Fraction(1),
            nominal_rate=float(stream.average_rate or 0),
            size=(first.height, first.width),
            rotation=round(first.rotation / 90) % 4,
        )


def _list_packets(path: str, container: Any, stream: Any) -> list[CodedFrame]:
    """Packets from the first key frame on: what a cut recording begins with lacks its base."""
    unit_length = length_bytes(stream.codec_context.extradata)
    packets: list[CodedFrame] = []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError(f"{path}: truncated or damaged after {len(packets)} frames")
        if not packet.size or packet.is_discard or not (packets or packet.is_keyframe):
            continue
        decoded = next((time for time in (packet.dts, packet.pts) if time is not None), 0)
        restarts = packet.is_keyframe and holds_idr(bytes(packet), unit_length)
        packets.append(CodedFrame(packet.pts, decoded, packet.is_keyframe, restarts))
    if not packets:
        raise ValueError(f"{path}: the video has no frames")
    return packets


# ---------------------------------------------------------------- decoding


def _decode_with_pyav(
    path: Path | str, table: FrameTable, wanted: Sequence[int]
) -> dict[int, Pixels]:
    """Pictures (H, W, 3) of the ascending indices `wanted`."""
    with _opened(path) as (container, stream):
        for lead in LEADS if table.reliable else ():
            with suppress(UnreliableStamps):
                pictures = _decode_by_stamp(path, container, stream, table, wanted, lead)
                _remember_sound(path, table, wanted)
                return pictures
        _warn_of_slowness(str(path))
        _rewind(container, stream)
        return _decode_by_counting(path, container, stream, table, wanted)


def _decode_by_stamp(
    path: Path | str,
    container: Any,
    stream: Any,
    table: FrameTable,
    wanted: Sequence[int],
    lead: int,
) -> dict[int, Pixels]:
    """Seek to the key frame before each wanted frame, unless decoding on is as near."""
    pictures: dict[int, Pixels] = {}
    frames: Iterator[Any] = iter(())
    passed = None  # stamp of the newest decoded frame
    stamps = {int(table.stamps[index]) for index in wanted}
    for index in wanted:
        stamp = int(table.stamps[index])
        key = max(0, table.key_before(index) - lead)
        if passed is None or table.keys[key] > passed:
            frames, passed = _frames_from_key(path, container, stream, table, key, stamps), None
        for frame in frames:
            if frame.pts is None or (passed is not None and frame.pts <= passed):
                raise UnreliableStamps
            passed = frame.pts
            if passed >= stamp:
                break
        if passed != stamp:
            raise UnreliableStamps
        pictures[index] = _upright(frame, table.rotation)
    return pictures


def _frames_from_key(
    path: Path | str,
    container: Any,
    stream: Any,
    table: FrameTable,
    key: int,
    wanted: AbstractSet[int],
) -> Iterator[Any]:
    """Frames in the order of display, from the key frame on; those that are not of the stamps
    `wanted` and that no other builds on may be missing."""
    stamp = int(table.keys[key])
    # Some containers index the time of display, others that of decoding, some not exactly.
    for target in (stamp, int(table.key_starts[key]), int(table.key_starts[max(0, key - 1)])):
        container.seek(target, stream=stream, backward=True)
        packets = container.demux(stream)
        for packet in packets:
            if packet.is_keyframe and packet.pts == stamp:
                following = _checked(chain((packet,), packets), table)
                following = _skipping(following, stream.codec_context, wanted)
                frames = _intact_frames(path, following, strict_from=stamp)
                return (frame for frame in frames if frame.pts is None or frame.pts >= stamp)
            if packet.pts is None or (packet.is_keyframe and packet.pts > stamp):
                break  # landed behind it, or nowhere
    raise UnreliableStamps


def _checked(packets: Iterator[Any], table: FrameTable) -> Iterator[Any]:
    """The packets, as long as they carry the stamps that the table has for them.

    A program stream has few stamps, and those made up for the rest can differ after a seek.
    """
    for packet in packets:
        if packet.size and packet.pts is not None and packet.pts >= table.stamps[0]:
            if packet.is_keyframe != table.is_key(packet.pts):
                raise UnreliableStamps
            if not packet.is_discard and not table.is_shown(packet.pts):
                raise UnreliableStamps
        yield packet


def _skipping(packets: Iterator[Any], decoder: Any, wanted: AbstractSet[int]) -> Iterator[Any]:
    """The packets, the decoder being told each time whether it may leave a picture out.

    In H.264 every picture says whether others build on it. Those that neither are wanted nor are
    built on are about half of a usual file; without them the others stay the same, bit for bit.
    """
    skips = decoder.name == "h264"
    for packet in packets:
        if skips:
            needed = packet.is_keyframe or packet.pts in wanted
            decoder.skip_frame = "DEFAULT" if needed else "NONREF"
        yield packet


def _rewind(container: Any, stream: Any) -> None:
    container.seek(0 if stream.start_time is None else stream.start_time, stream=stream)


@functools.lru_cache(maxsize=4096)  # once per file
def _warn_of_slowness(path: str) -> None:
    logger.warning(
        "%s: its time stamps are of no use, so it is decoded from the start for every read; "
        "process_data.py makes fast frames of it",
        path,
    )


def _decode_by_counting(
    path: Path | str, container: Any, stream: Any, table: FrameTable, wanted: Sequence[int]
) -> dict[int, Pixels]:
    """Decode from the start; the only exact way for files without usable time stamps."""
    missing = set(wanted)
    pictures: dict[int, Pixels] = {}
    for index, frame in enumerate(_all_frames(path, container, stream)):
        if index in missing:
            pictures[index] = _upright(frame, table.rotation)
            if len(pictures) == len(missing):
                return pictures
    raise ValueError(f"{path}: frame {min(missing - set(pictures))} cannot be decoded")


def _all_frames(path: Path | str, container: Any, stream: Any) -> Iterator[Any]:
    return _intact_frames(path, container.demux(stream))


def _intact_frames(
    path: Path | str, packets: Iterator[Any], strict_from: int | None = None
) -> Iterator[Any]:
    """Decoded frames from the first key frame on, refusing damaged ones.

    Before the stamp `strict_from` damage is expected: what those frames build on was skipped.
    """
    begun = False
    for packet in packets:
        begun = begun or packet.is_keyframe
        if not begun:
            continue
        if packet.is_corrupt:
            raise ValueError(f"{path}: truncated or damaged")
        for frame in packet.decode():
            expected = strict_from is not None and (frame.pts or 0) < strict_from
            if frame.is_corrupt and not expected:
                raise ValueError(f"{path}: damaged at {frame.time or 0:.2f} seconds")
            yield frame


def _resampled(frames: Iterator[Any], table: FrameTable, fps: float) -> Iterator[Any]:
    """Repeat or leave out frames so that one comes every 1 / fps seconds."""
    due = 0
    shown, start = None, 0.0
    usual = 1 / (table.fps or fps)
    time = -usual
    for count, frame in enumerate(frames):
        if table.reliable and frame.pts is not None:
            time = float(int(frame.pts - table.stamps[0]) * table.time_base)
        else:
            time = count * usual
        # The tolerance keeps a frame whose stamp was rounded from slipping to the next tick.
        while shown is not None and due / fps < time - 1e-3 / fps:
            yield shown
            due += 1
        shown, start = frame, time
    while shown is not None and due / fps < start + usual - 1e-3 / fps:
        yield shown
        due += 1


def _upright(frame: Any, rotation: int) -> Pixels:
    picture = frame.to_ndarray(format="rgb24", **_ONE_THREAD)  # (H, W, 3)
    return np.ascontiguousarray(np.rot90(picture, rotation)) if rotation else picture


# ---------------------------------------------------------------- decord


def _decode_with_decord(
    path: Path | str, table: FrameTable, wanted: Sequence[int]
) -> dict[int, Pixels] | None:
    """The same pictures from decord, or None where it is absent or not to be trusted."""
    if not table.suits_decord or _process_of_decord() != os.getpid():
        return None
    import decord

    try:
        reader = _decord_reader(*_identity(path))
        if len(reader) != len(table):
            return None
        batch = reader.get_batch(list(wanted)).asnumpy()
    except decord.DECORDError:
        # Broken, perhaps: PyAV reads it or says what is wrong. The reader is of no more use.
        _decord_reader.cache_clear()
        return None
    return dict(zip(wanted, batch, strict=True))


@functools.lru_cache(maxsize=2048)
def _sound_frames(_path: str, _size: int, _modified: int, frames: int) -> bytearray:
    """For each frame of a file, 1 once PyAV has read it, and all it builds on, without damage."""
    return bytearray(frames)


def _remember_sound(path: Path | str, table: FrameTable, wanted: Sequence[int]) -> None:
    sound = _sound_frames(*_identity(path), len(table))
    for index in wanted:
        sound[index] = 1


def _is_known_sound(path: Path | str, table: FrameTable, wanted: Sequence[int]) -> bool:
    sound = _sound_frames(*_identity(path), len(table))
    return all(sound[index] for index in wanted)


@functools.cache
def _process_of_decord() -> int | None:
    """The process that decord belongs to: the first one to use it, None where it is absent.

    A process forked from one that has used decord waits for ever in it; it inherits the answer
    kept here, sees that it is another process, and takes PyAV.
    """
    return os.getpid() if find_spec("decord") is not None else None


@functools.lru_cache(maxsize=4)
def _decord_reader(path: str, _size: int, _modified: int) -> Any:
    import decord

    return decord.VideoReader(path, num_threads=1)


# ---------------------------------------------------------------- opening


@contextmanager
def _opened(path: Path | str) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of a file, with the errors that this module promises."""
    with _decodable(path, "not readable as a video"), av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path}: not readable as a video: it holds no pictures")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # loaders run one process per core already
        yield container, stream


@contextmanager
def _decodable(path: Path | str, problem: str) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise ValueError(f"{path}: {problem}: {error.strerror}") from None
