"""The same features however they are computed, and one clear line where they cannot be.

Run as a program, this file is one process of an extraction: see `main`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tools.metrics.cache
from configs.errors import run_command
from datasets.image_io import write_image
from datasets.sources import Source, find_sources
from datasets.video_io import iterate_frames, write_video
from tools.metrics.batching import Assembly, Batches
from tools.metrics.decoding import MOST_FRAMES, Order, decode, read_pieces, share_out
from tools.metrics.extraction import Extraction, exact_arithmetic, extract
from tools.metrics.features import FeatureExtractor
from tools.metrics.protocol import Protocol
from tools.metrics.sets import VideoSet, open_set
from tools.training.runtime import Runtime, start_runtime

ROOT = Path(__file__).resolve().parents[3]
CPU = Runtime(torch.device("cpu"))
PROTOCOL = Protocol(frame_size=32, real_stride=2, clip_frames=8, max_real_frames=60)


class Small(FeatureExtractor):
    """A convolution, a matrix product and class scores: what real extractors are made of."""

    comparable = False

    def __init__(self, name: str, frames: int, pause: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(len(name))
        self.name, self.frames, self.fingerprint, self.pause = name, frames, f"of {name}", pause
        self.provenance: dict[str, Any] = {}
        self.outputs = {"features": 48, "logits": 10}
        self.kernel = torch.randn(16, 3, 5, 5, generator=generator) / 9
        self.matrix = torch.randn(16 * frames * 4, 48, generator=generator) / 9
        self.classes = torch.randn(48, 10, generator=generator)
        self.seen = 0

    def __call__(self, videos: Tensor) -> dict[str, Tensor]:
        assert videos.dtype == torch.uint8
        assert videos.shape[1:3] == (self.frames, 3)
        self.seen += len(videos)
        time.sleep(self.pause)
        images = videos.flatten(0, 1).float() / 127.5 - 1
        maps = torch.nn.functional.conv2d(images, self.kernel, stride=4).tanh()
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, 2)
        features = maps.reshape(len(videos), -1) @ self.matrix
        return {"features": features, "logits": features @ self.classes}


def extractors() -> list[FeatureExtractor]:
    return [Small("clips", 8), Small("images", 1), Small("long-clips", 12)]


def pixels(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """A moving picture with smooth structure: (F, H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 2 + count // 6, 5, 5, generator=generator)
    large = torch.nn.functional.interpolate(small, size=(count, height, width), mode="trilinear")
    return (large[0].permute(1, 2, 3, 0) * 255).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of several sizes, lengths and formats; two of them shorter than a clip."""
    folder = tmp_path_factory.mktemp("mixed")
    shapes = [(40, 48, 64), (23, 32, 32), (15, 64, 48), (14, 32, 32), (90, 40, 40), (3, 32, 32)]
    for k, (count, height, width) in enumerate(shapes):
        write_video(folder / f"video{k + 6}.mp4", pixels(count, height, width, k), fps=8)
    np.savez_compressed(folder / "video20.npz", video=pixels(31, 30, 50, 20))
    (folder / "video21").mkdir()
    for k, frame in enumerate(pixels(26, 36, 36, 21)):
        write_image(folder / "video21" / f"{k}.png", torch.from_numpy(frame).permute(2, 0, 1))
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the subprocesses of these tests: the number of threads may change the last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(
    videos: Path | VideoSet,
    protocol: Protocol = PROTOCOL,
    networks: Sequence[FeatureExtractor] | None = None,
    **options: Any,
) -> Extraction:
    """The features of real videos, in this process unless told otherwise."""
    given = {"cache": None, "runtime": CPU, "workers": 0, "side": "real", **options}
    opened = videos if isinstance(videos, VideoSet) else open_set(videos)
    side = given.pop("side")
    return extract(opened, side, protocol, networks or extractors(), **given)


def difference(first: Extraction, second: Extraction) -> float:
    """The largest one between two extractions that have the same rows, relative to the largest
    feature; 0 is bit for bit."""
    assert first.features.keys() == second.features.keys()
    largest = 0.0
    for name, ours in first.features.items():
        theirs = second.features[name]
        assert list(ours.videos) == list(theirs.videos)
        assert list(ours.windows) == list(theirs.windows)
        assert torch.equal(ours.groups, theirs.groups)
        for key, values in ours.outputs.items():
            apart = (values - theirs.outputs[key]).abs().max() / values.abs().max()
            largest = max(largest, float(apart))
    return largest


# ---------------------------------------------------------------- what is computed


def test_features_are_those_of_the_plain_way(mixed: Path) -> None:
    found = run(mixed)
    sources = {source.name: source for source in open_set(mixed).sources}
    networks = {each.name: each for each in extractors()}
    for name, features in found.features.items():
        assert len(features) == len(features.windows) == len(features.groups)
        for row, window in enumerate(features.windows):
            source = sources[features.videos[int(features.groups[row])]]
            frames = source.read(window)
            small = torch.nn.functional.interpolate(
                frames[..., :, :], size=frames.shape[-2:], mode="nearest"
            )
            from tools.metrics.clips import prepare

            expected = networks[name](prepare(small, PROTOCOL)[None])
            for key, values in expected.items():
                assert torch.allclose(features.outputs[key][row], values[0], atol=1e-5)


def test_what_was_met_is_reported(mixed: Path) -> None:
    found = run(mixed)
    # 15 frames are just enough for 8 at stride 2, 23 for 12; 14 and 3 are not.
    assert found.dropped == ("video8", "video9", "video11")
    assert list(found.features["clips"].videos) == [
        *("video6", "video7", "video8", "video10", "video20", "video21")
    ]
    assert "video8" not in found.features["long-clips"].videos
    assert len(found.used) == 8  # their frames count as images
    assert found.sizes[(32, 32)] == 3
    assert found.sizes[(48, 64)] == 1
    assert found.lengths[90] == 1
    assert found.containers == {"mp4": 6, "npz": 1, "png": 1}
    assert len(found.features["images"]) <= 60
    assert found.features["images"].groups.unique().tolist() == list(range(8))
    assert found.features["images"].groups.tolist() == sorted(
        found.features["images"].groups.tolist()
    )
    assert found.seconds > 0


def test_the_two_sides_have_their_own_terms(mixed: Path) -> None:
    protocol = replace(PROTOCOL, real_stride=3, fake_stride=1, max_fake_frames=8, clip_frames=8)
    real, fake = run(mixed, protocol), run(mixed, protocol, side="fake")
    assert all(np.diff(window).tolist() == [3] * 7 for window in real.features["clips"].windows)
    assert list(fake.features["clips"].windows) == [list(range(8))] * 7
    assert len(fake.features["images"]) == 8
    limited = run(mixed, replace(PROTOCOL, max_real_clips=3))
    assert len(limited.features["clips"]) == 3
    several = run(mixed, PROTOCOL, clips_per_video=4)
    assert len(several.features["clips"]) == 6 * 4 - 3  # video8 has one start only
    assert several.features["clips"].groups.bincount().tolist() == [4, 4, 1, 4, 4, 4]


def test_adding_a_video_leaves_the_clips_of_the_others(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "more")
    write_video(tmp_path / "more" / "another.mp4", pixels(30, 32, 32, 99), fps=8)
    networks = [Small("clips", 8)]
    before, after = run(mixed, networks=networks), run(tmp_path / "more", networks=networks)
    assert after.used == ("another", *before.used)
    clips, more = before.features["clips"], after.features["clips"]
    assert list(more.windows)[1:] == list(clips.windows)
    assert torch.allclose(more.values[1:], clips.values, rtol=0, atol=1e-5)


def test_every_frame_is_decoded_once_for_all_extractors(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[int]] = {}

    def counted(self: Source, indices: Sequence[int]) -> Tensor:
        asked.setdefault(self.name, []).extend(indices)
        return original(self, indices)

    for kind in {type(source) for source in open_set(mixed).sources}:
        original = kind.read
        monkeypatch.setattr(kind, "read", counted)
        run(mixed)
        monkeypatch.setattr(kind, "read", original)
    assert asked
    for indices in asked.values():
        assert len(indices) == len(set(indices))


# ---------------------------------------------------------------- the same in every way


@pytest.mark.parametrize("workers", [1, 4])
def test_worker_processes_change_no_bit(mixed: Path, workers: int) -> None:
    assert difference(run(mixed), run(mixed, workers=workers)) == 0


def test_the_order_of_the_folder_changes_no_bit(mixed: Path) -> None:
    opened = open_set(mixed)
    turned = replace(opened, sources=list(opened.sources)[::-1])
    assert difference(run(opened), run(turned)) == 0


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_next_to_nothing(mixed: Path, batch_size: int) -> None:
    assert difference(run(mixed), run(mixed, batch_size=batch_size)) < 1e-6


def test_neighbours_in_a_batch_change_no_bit() -> None:
    clips = torch.randint(256, (20, 8, 3, 32, 32), dtype=torch.uint8)
    orders = [list(range(20)), list(range(20))[::-1], list(range(0, 20, 3)), [7]]
    found: list[dict[str, dict[str, Tensor]]] = []
    for order in orders:
        found.append({})
        batches = Batches(Small("clips", 8), 8, CPU.device, found[-1].__setitem__)
        for number in order:
            batches.begin(str(number), number, 1)
            batches.add(str(number), 0, clips[number])
        batches.flush()
        assert found[-1].keys() == {str(number) for number in order}
        for name, outputs in found[-1].items():
            assert all(torch.equal(outputs[key], found[0][name][key]) for key in outputs)


def test_batches_have_few_gaps() -> None:
    network = Small("clips", 8)
    batches = Batches(network, 8, CPU.device, lambda *_: None)
    clip = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    for number in torch.randperm(400, generator=torch.Generator().manual_seed(0)).tolist():
        batches.begin(str(number), number, 1)
        batches.add(str(number), 0, clip)
        assert batches.waiting < 16
    batches.flush()
    assert network.seen < 1.3 * 400


def test_files_frames_and_arrays_of_one_video_have_the_same_features(tmp_path: Path) -> None:
    for k in range(3):
        path = tmp_path / "mp4" / f"video{k}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, pixels(20 + 60 * k, 50, 70, k), fps=8)
        decoded = torch.stack(list(iterate_frames(path)))
        (tmp_path / "png" / f"video{k}").mkdir(parents=True)
        for number, frame in enumerate(decoded):
            write_image(tmp_path / "png" / f"video{k}" / f"frame{number}.png", frame)
        (tmp_path / "npz").mkdir(exist_ok=True)
        array = decoded.permute(0, 2, 3, 1).numpy()
        np.savez_compressed(tmp_path / "npz" / f"video{k}.npz", video=array)
    protocol = replace(PROTOCOL, max_real_frames=0)
    reference = run(tmp_path / "mp4", protocol)
    assert len(reference.features["images"]) == 20 + 80 + 140
    for kind in ("png", "npz"):
        assert difference(reference, run(tmp_path / kind, protocol)) == 0


def test_a_long_video_comes_in_pieces_and_in_order(tmp_path: Path) -> None:
    video = np.zeros((400, 16, 16, 3), dtype=np.uint8)
    video[..., 0] = np.arange(400)[:, None, None] % 251
    write_video(tmp_path / "a.mp4", video, fps=8)
    np.savez_compressed(tmp_path / "b.npz", video=video)
    protocol = Protocol(frame_size=0)
    for source in find_sources(tmp_path, arrays=True):
        for wanted in (list(range(400)), list(range(0, 400, 3)), [0, 399]):
            pieces = list(read_pieces(Order(0, source, (16, 16), wanted), protocol))
            assert all(len(piece.indices) <= MOST_FRAMES for piece in pieces)
            assert [index for piece in pieces for index in piece.indices] == wanted
            together = np.concatenate([piece.frames for piece in pieces])
            assert np.array_equal(together, source.read(wanted).numpy())


def test_sparse_frames_of_a_long_video_are_sought(tmp_path: Path) -> None:
    video = pixels(3000, 16, 16, 0)
    write_video(tmp_path / "a.mp4", video, fps=8)
    (source,) = find_sources(tmp_path)
    sought: list[list[int]] = []
    original = source.read

    def read(indices: Sequence[int]) -> Tensor:
        sought.append(list(indices))
        return original(indices)

    source.read = read  # type: ignore[method-assign]
    wanted = list(range(0, 2800, 35))
    pieces = read_pieces(Order(0, source, (16, 16), wanted), Protocol(frame_size=0))
    assert [index for piece in pieces for index in piece.indices] == wanted
    assert sought == [wanted[:64], wanted[64:]]


def test_orders_are_shared_out_evenly() -> None:
    source: Any = None
    lengths = [1000, 1, 1, 1, 500, 499, 2]
    orders = [Order(k, source, (1, 1), range(n)) for k, n in enumerate(lengths)]
    shares = share_out(orders, 2)
    loads = [sum(len(order.wanted) for order in share) for share in shares]
    assert abs(loads[0] - loads[1]) <= 2
    assert sorted(order.number for share in shares for order in share) == list(range(7))
    assert all(
        [order.number for order in share] == sorted(order.number for order in share)
        for share in shares
    )
    assert [len(share) for share in share_out(orders[:1], 3)] == [1, 0, 0]


def test_an_assembly_holds_only_frames_that_are_still_needed() -> None:
    done: dict[str, dict[str, Tensor]] = {}
    clips = Batches(Small("clips", 8), 2, CPU.device, done.__setitem__)
    windows = [list(range(start, start + 8)) for start in (0, 100, 104, 300)]
    clips.begin("v", 0, len(windows))
    assembly = Assembly("v", [(clips, windows)])
    wanted = sorted({index for window in windows for index in window})
    frames = torch.randint(256, (400, 3, 32, 32), dtype=torch.uint8)
    held = []
    for start in range(0, len(wanted), 5):
        indices = wanted[start : start + 5]
        assembly.add(indices, frames[indices])
        held.append(len(assembly.held))
    assert max(held) <= 12
    assert assembly.done
    assert not assembly.held
    clips.flush()
    expected = Small("clips", 8)(torch.stack([frames[window] for window in windows]))
    assert torch.allclose(done["v"]["features"], expected["features"], atol=1e-5)


def test_arithmetic_is_exact_and_what_was_set_before_comes_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_arithmetic():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.deterministic
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


# ---------------------------------------------------------------- the cache


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once."""
    monkeypatch.setattr(tools.metrics.cache, "SETTLED", 0)


def seen(networks: Sequence[FeatureExtractor]) -> list[int]:
    return [each.seen for each in networks if isinstance(each, Small)]


def test_a_second_run_computes_nothing_and_gives_the_same_bits(
    mixed: Path, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = run(mixed)
    first = run(mixed, cache=tmp_path)
    assert first.reused == 0
    networks = extractors()

    def refuse(*_: object) -> None:
        raise AssertionError("a file was read again")

    with monkeypatch.context() as patch:
        patch.setattr("tools.metrics.cache.content_hash", refuse)
        patch.setattr("datasets.sources.VideoFile.count", refuse)
        second = run(mixed, cache=tmp_path, networks=networks)
    assert second.reused == 8
    assert seen(networks) == [0, 0, 0]
    assert difference(first, second) == difference(first, without) == 0


def test_what_does_not_change_the_pixels_is_reused(
    mixed: Path, tmp_path: Path, settled: None
) -> None:
    run(mixed, cache=tmp_path)
    other = replace(PROTOCOL, name="other", fake_stride=9, is_splits=3, ddof=0)
    assert run(mixed, other, cache=tmp_path).reused == 8
    networks = [Small("clips", 8), Small("images", 1), Small("further", 1)]
    assert run(mixed, cache=tmp_path, networks=networks).reused == 0
    assert seen(networks)[:2] == [0, 0]
    for change in ({"frame_size": 48}, {"resize": "squeeze"}, {"antialias": False}):
        networks = [Small("clips", 8)]
        run(mixed, replace(PROTOCOL, **change), cache=tmp_path, networks=networks)
        assert seen(networks)[0] > 0, change
    changed = Small("clips", 8)
    changed.fingerprint = "other weights"
    run(mixed, cache=tmp_path, networks=[changed])
    assert changed.seen > 0


def test_a_replaced_file_is_computed_again_whatever_its_times_say(
    mixed: Path, tmp_path: Path, settled: None
) -> None:
    folder, cache = tmp_path / "videos", tmp_path / "cache"
    shutil.copytree(mixed, folder)
    np.savez(folder / "video20.npz", video=pixels(31, 30, 50, 5))
    protocol = replace(PROTOCOL, max_real_frames=30)
    first = run(folder, protocol, cache=cache).features["clips"]
    window = first.windows[list(first.videos).index("video21")]

    other = torch.full((3, 36, 36), 7, dtype=torch.uint8)
    replace_unseen(folder / "video21" / f"{window[2]}.png", lambda path: write_image(path, other))
    array = pixels(31, 30, 50, 6)
    replace_unseen(folder / "video20.npz", lambda path: np.savez(path, video=array))
    again = run(folder, protocol, cache=cache)
    assert again.reused == 6
    assert difference(again, run(folder, protocol)) == 0

    # A frame that is not among the chosen ones may change.
    used = {
        index
        for each in again.features.values()
        for group, window in zip(each.groups.tolist(), each.windows, strict=True)
        for index in window
        if each.videos[group] == "video21"
    }
    unused = next(index for index in range(26) if index not in used)
    write_image(folder / "video21" / f"{unused}.png", other)
    assert run(folder, protocol, cache=cache).reused == 8


def replace_unseen(path: Path, write: Callable[[Path], None]) -> None:
    """Write another file of the same size and with the same time of change."""
    times = path.stat()
    write(path)
    path.write_bytes(path.read_bytes().ljust(times.st_size, b"\0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert path.stat().st_mtime_ns == times.st_mtime_ns


def test_a_damaged_entry_is_computed_again(
    mixed: Path, tmp_path: Path, settled: None, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(mixed, cache=tmp_path)
    for path in list((tmp_path / "features").glob("*/*"))[:9]:
        path.write_bytes(path.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        second = run(mixed, cache=tmp_path)
    assert "computed again, since it is damaged" in caplog.text
    assert second.reused < 8
    assert difference(first, second) == 0


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, settled: None) -> None:
    for k in range(2):
        write_video(tmp_path / f"{k}.mp4", pixels(20, 32, 32, k), fps=8)

    class Meddler(Small):
        def __call__(self, videos: Tensor) -> dict[str, Tensor]:
            os.utime(tmp_path / "1.mp4")
            return super().__call__(videos)

    networks = [Meddler("clips", 8)]
    with pytest.raises(ValueError, match=r"1\.mp4: it changed while it was read; run again"):
        run(tmp_path, cache=tmp_path / "cache", networks=networks, batch_size=1)


# ---------------------------------------------------------------- bad input


def test_no_video_is_long_enough(mixed: Path) -> None:
    protocol = replace(PROTOCOL, real_stride=13)
    message = (
        r"mixed\d*: none of its 8 videos is long enough: a clip of 8 frames at stride 13 needs 92,"
        r" the longest, video10, has 90 frames; lower real_stride or clip_frames"
    )
    with pytest.raises(ValueError, match=message):
        run(mixed, protocol, [Small("clips", 8)])
    with pytest.raises(ValueError, match=r"only one of its 8 videos \(video10\) is long enough"):
        run(mixed, replace(PROTOCOL, real_stride=7), [Small("clips", 8)])


def test_a_stride_that_nothing_tells(mixed: Path) -> None:
    with pytest.raises(ValueError, match="real_stride: 0 stands for the generator's training"):
        run(mixed, replace(PROTOCOL, real_stride=0))
    assert run(mixed, replace(PROTOCOL, real_stride=0), [Small("images", 1)]).dropped == ()


def test_sizes_as_stored_must_agree(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"its videos differ in size \(50x30, 32x32, .*64x48, 48x64\)"
    ):
        run(mixed, replace(PROTOCOL, frame_size=0))
    for k in range(2):
        write_video(tmp_path / f"{k}.mp4", pixels(20, 40, 48, k), fps=8)
    found = run(tmp_path, replace(PROTOCOL, frame_size=0), [Small("clips", 8)])
    assert found.sizes == {(40, 48): 2}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["header", "middle", "frame", "array"])
def test_a_video_that_cannot_be_read_is_named(
    mixed: Path, tmp_path: Path, workers: int, damage: str
) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(mixed, folder)
    names = {
        "header": "video7.mp4",
        "middle": "video10.mp4",
        "frame": "video21/20.png",
        "array": "video20.npz",
    }
    path = folder / names[damage]
    raw = bytearray(path.read_bytes())
    middle = slice(len(raw) // 3, 2 * len(raw) // 3)
    raw[middle] = bytes(middle.stop - middle.start)
    path.write_bytes(b"nothing" if damage == "header" else raw)
    protocol = replace(PROTOCOL, max_real_frames=0)
    with pytest.raises(ValueError, match=str(path)) as caught:
        run(folder, protocol, workers=workers, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_features_that_are_not_finite_name_the_video(mixed: Path) -> None:
    class Broken(Small):
        def __call__(self, videos: Tensor) -> dict[str, Tensor]:
            found = super().__call__(videos)
            found["logits"][2, 0] = float("nan")
            return found

    with pytest.raises(ValueError, match=r"video8: its logits by clips are not finite"):
        run(mixed, networks=[Broken("clips", 8)])


def test_an_extractor_must_keep_its_word(mixed: Path) -> None:
    class Wide(Small):
        def __call__(self, videos: Tensor) -> dict[str, Tensor]:
            return {name: values[:, :-1] for name, values in super().__call__(videos).items()}

    with pytest.raises(RuntimeError, match=r"features of shape \(8, 47\), not \(8, 48\)"):
        run(mixed, networks=[Wide("clips", 8)])
    with pytest.raises(ValueError, match="a name twice"):
        run(mixed, networks=[Small("clips", 8), Small("clips", 8)])


def test_a_worker_that_the_system_ends_is_explained(mixed: Path) -> None:
    class Killer(Small):
        def __call__(self, videos: Tensor) -> dict[str, Tensor]:
            for process in children(os.getpid()):
                os.kill(process, signal.SIGKILL)
            time.sleep(0.3)
            return super().__call__(videos)

    protocol = replace(PROTOCOL, max_real_frames=0)
    networks = [Killer("images", 1)]
    with pytest.raises(OSError, match="was ended by the system, mostly for want of memory"):
        run(mixed, protocol, networks, workers=2, batch_size=1)


def test_decoding_ends_its_workers_when_it_is_left(mixed: Path) -> None:
    orders = [
        Order(k, source, source.frame_size(), range(source.count()))
        for k, source in enumerate(open_set(mixed).sources)
    ]
    before = children(os.getpid())
    pieces = decode(orders, PROTOCOL, 2)
    next(pieces)
    assert len(children(os.getpid()) - before) == 2
    pieces.close()
    assert not children(os.getpid()) - before  # those of earlier tests may end meanwhile


# ---------------------------------------------------------------- other processes


def children(process: int) -> set[int]:
    """The processes that a process started and that still run."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == process and state != "Z":
                found.add(int(status.parent.name))
    return found


def main() -> int:
    """One process of an extraction, with results in a file."""
    # A shell's background jobs, and what they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--all_frames_of", type=int, default=0, help="pixels of height and width")
    given = parser.parse_args()
    torch.set_num_threads(1)
    networks = [Small("clips", 8, given.pause), Small("images", 1), Small("long-clips", 12)]
    protocol = PROTOCOL
    if given.all_frames_of:
        protocol = replace(PROTOCOL, frame_size=given.all_frames_of, max_real_frames=0)
    with start_runtime("fp32") as runtime:
        found = run(
            given.videos,
            protocol,
            networks,
            cache=given.cache,
            workers=given.workers,
            runtime=runtime,
            batch_size=given.batch_size,
        )
        torch.save(found, given.output / f"rank{runtime.rank}.pt")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    (given.output / "peak.txt").write_text(str(peak))
    return 0


def command(*arguments: object, processes: int = 0) -> subprocess.Popen[str]:
    """This file as a program, in a session of its own."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *(launcher if processes else []), __file__, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextlib.contextmanager
def running(*arguments: object, processes: int = 0) -> Iterator[subprocess.Popen[str]]:
    with command(*arguments, processes=processes) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def load(path: Path) -> Extraction:
    found = torch.load(path, weights_only=False)
    return Extraction(**{**vars(found), "features": found.features})


@pytest.mark.slow
def test_two_processes_give_what_one_gives(mixed: Path, tmp_path: Path) -> None:
    options = ("--workers", 1, "--cache", tmp_path / "cache")
    with running(mixed, tmp_path, *options, processes=2) as process:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    alone = run(mixed)
    for rank in (0, 1):
        found = load(tmp_path / f"rank{rank}.pt")
        assert difference(alone, found) == 0
        assert (found.dropped, found.sizes, found.lengths, found.containers, found.used) == (
            *(alone.dropped, alone.sizes, alone.lengths, alone.containers, alone.used),
        )
    assert run(mixed, cache=tmp_path / "cache").reused == 8


@pytest.mark.slow
def test_a_killed_run_goes_on_with_what_it_has(mixed: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "videos", tmp_path / "cache"
    folder.mkdir()
    for k in range(12):
        write_video(folder / f"{k}.mp4", pixels(40, 32, 32, k), fps=8)
    arguments = (folder, tmp_path, "--cache", cache, "--workers", 2, "--batch_size", 1)
    with running(*arguments, "--pause", 0.25) as process:
        deadline = time.monotonic() + 60
        while len(list(cache.glob("features/*/*"))) < 9 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = children(process.pid)
        assert len(workers) == 2
        process.kill()
        process.wait()
        assert not (tmp_path / "rank0.pt").exists()
        deadline = time.monotonic() + 15
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.1)
    again = run(folder, cache=cache, batch_size=1)
    assert 0 < again.reused < 12
    assert difference(again, run(folder, batch_size=1)) == 0


@pytest.mark.slow
def test_ctrl_c_ends_everything_and_keeps_what_is_done(tmp_path: Path) -> None:
    folder, cache = tmp_path / "videos", tmp_path / "cache"
    folder.mkdir()
    for k in range(12):
        write_video(folder / f"{k}.mp4", pixels(40, 32, 32, k), fps=8)
    arguments = (folder, tmp_path, "--cache", cache, "--workers", 2, "--batch_size", 1)
    with running(*arguments, "--pause", 0.25) as process:
        deadline = time.monotonic() + 60
        while len(list(cache.glob("features/*/*"))) < 9 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped by the user" in errors
    assert workers
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert run(folder, cache=cache, batch_size=1).reused > 0


@pytest.mark.slow
def test_memory_grows_neither_with_the_number_nor_the_length_of_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is given back goes to the system at once: what is measured is what is held.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    peaks = {}
    for count, frames in ((4, 100), (24, 100), (4, 600)):
        folder = tmp_path / f"{count}-{frames}"
        for k in range(count):
            folder.mkdir(exist_ok=True)
            np.savez(folder / f"{k}.npz", video=np.zeros((frames, 16, 16, 3), dtype=np.uint8))
        with running(folder, tmp_path, "--all_frames_of", 128) as process:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        peaks[count, frames] = int((tmp_path / "peak.txt").read_text()) * 1024
    # All prepared frames would take 20 MB in the first case, 98 MB more in the others.
    more = 2000 * 3 * 128 * 128
    assert peaks[24, 100] - peaks[4, 100] < more / 2
    assert peaks[4, 600] - peaks[4, 100] < more / 2


if __name__ == "__main__":
    run_command(main)
