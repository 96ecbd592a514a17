"""Cached features are those of the files as they are now, or they are computed again."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

import tools.metrics.cache as module
from tools.metrics.cache import Cache, cache_folder, content_hash, identity

KEY = {"content": "a1b2", "frame_size": 128, "starts": [0, 5]}


def outputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(2, 400, generator=generator),
        "logits": torch.randn(2, 10, generator=generator),
    }


def entry(folder: Path) -> Path:
    (found,) = [path for path in folder.rglob("*") if path.is_file()]
    return found


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once; otherwise each test would have to wait for two seconds."""
    monkeypatch.setattr(module, "SETTLED", 0)


def test_features_come_back_bit_for_bit(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    stored = outputs()
    stored["features"][0, :3] = torch.tensor([float("inf"), -0.0, 1e-42])
    cache.store_features(KEY, stored)
    found = cache.features(dict(KEY))
    assert found is not None
    assert list(found) == ["features", "logits"]
    for name, values in stored.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name].view(torch.int32), values.view(torch.int32))
    assert cache.features({**KEY, "frame_size": 64}) is None
    assert cache.features({**KEY, "starts": [0]}) is None
    empty = {"features": torch.zeros(0, 7)}
    cache.store_features({"a": 1}, empty)
    assert cache.features({"a": 1})["features"].shape == (0, 7)  # type: ignore[index]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "pickle"])
def test_a_damaged_entry_is_computed_again_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = Cache(tmp_path)
    cache.store_features(KEY, outputs())
    path = entry(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    changed = {
        "flip": bytes(raw),
        "cut": bytes(raw[:-100]),
        "empty": b"",
        "text": b"hello",
        "pickle": b"\x80\x04cos\nsystem\n",
    }
    path.write_bytes(changed[damage])
    with caplog.at_level(logging.WARNING):
        assert cache.features(KEY) is None
    assert str(path) in caplog.text
    assert "computed again, since it is" in caplog.text
    cache.store_features(KEY, outputs())
    assert cache.features(KEY) is not None


def test_a_foreign_entry_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path)
    cache.store_features(KEY, outputs())
    one = entry(tmp_path)
    other = Cache(tmp_path / "other")
    other.store_features({**KEY, "content": "c3", "frame_size": 64}, outputs())
    one.write_bytes(entry(tmp_path / "other").read_bytes())
    assert cache.features(KEY) is None
    assert "made for something else: content, frame_size" in caplog.text


def test_an_entry_that_is_a_folder_or_not_readable_is_no_crash(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.store_features(KEY, outputs())
    path = entry(tmp_path)
    path.unlink()
    path.mkdir()
    assert cache.features(KEY) is None


def test_the_key_stands_in_clear(tmp_path: Path) -> None:
    Cache(tmp_path).store_features(KEY, outputs())
    assert b'"content": "a1b2"' in entry(tmp_path).read_bytes()


def test_a_full_or_read_only_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*features"):
        Cache(tmp_path).store_features(KEY, outputs())


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        Cache(tmp_path).store_features(KEY, outputs())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def store_and_load(folder: Path) -> bool:
    """Many times, as ranks and jobs on one folder do."""
    cache = Cache(folder)
    good = True
    for _ in range(60):
        cache.store_features(KEY, outputs())
        found = cache.features(KEY)
        good &= found is not None and torch.equal(found["features"], outputs()["features"])
    return good


def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3) as pool:
        assert all(pool.map(store_and_load, [tmp_path] * 3))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_contents_are_hashed_once_and_again_after_any_change(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"first")
    reads = []

    def counted(files: list[Path]) -> str:
        reads.append(files)
        return content_hash(files)

    monkeypatch.setattr(module, "content_hash", counted)
    cache = Cache(tmp_path / "cache")
    first = cache.content_hash([video])
    assert cache.content_hash([video]) == first
    assert Cache(tmp_path / "cache").content_hash([video]) == first
    assert len(reads) == 1

    times = video.stat()
    video.write_bytes(b"other")  # as long as before, and with its time set back
    os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert video.stat().st_mtime_ns == times.st_mtime_ns
    other = cache.content_hash([video])
    assert other != first

    replacement = tmp_path / "new.mp4"
    replacement.write_bytes(b"third")
    os.utime(replacement, ns=(times.st_atime_ns, times.st_mtime_ns))
    replacement.replace(video)
    assert cache.content_hash([video]) not in (first, other)
    video.write_bytes(b"first")
    assert cache.content_hash([video]) == first


def test_a_file_that_was_written_just_now_is_not_trusted(tmp_path: Path) -> None:
    # A second write within the same tick of the disk's clock would leave all its times alone.
    video = tmp_path / "a.mp4"
    video.write_bytes(b"first")
    cache = Cache(tmp_path / "cache")
    cache.content_hash([video])
    assert not (tmp_path / "cache").exists()


def test_a_change_while_a_file_is_looked_at_is_not_remembered(
    tmp_path: Path, settled: None
) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"first")
    cache = Cache(tmp_path / "cache")

    def find() -> int:
        video.write_bytes(b"longer than before")
        return 1

    assert cache.remembered("length", [video], find) == 1
    assert cache.remembered("length", [video], lambda: 2) == 2
    assert cache.remembered("length", [video], lambda: 3) == 2


def test_damaged_memory_is_found_out_again(tmp_path: Path, settled: None) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"first")
    cache = Cache(tmp_path / "cache")
    assert cache.remembered("length", [video], lambda: 5) == 5
    path = entry(tmp_path / "cache")
    path.write_bytes(path.read_bytes().replace(b'"value": 5', b'"value": 6'))
    assert cache.remembered("length", [video], lambda: 7) == 7


def test_the_order_and_number_of_files_count(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_bytes(b"12")
    b.write_bytes(b"3")
    c.write_bytes(b"123")
    hashes = [content_hash(files) for files in ([a], [a, b], [b, a], [c], [])]
    assert len(set(hashes)) == 5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4: this file is gone"):
        identity([tmp_path / "gone.mp4"])


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENDORA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "endora"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "endora"
    monkeypatch.setenv("ENDORA_CACHE", str(tmp_path / "e"))
    assert cache_folder() == tmp_path / "e"
