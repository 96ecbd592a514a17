"""Frame folders are whole or absent, and a run never redoes or mixes anything silently."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch

from datasets import frames as frames_module
from datasets.frames import (
    ExtractionSettings,
    Outcome,
    extract_all,
    find_videos,
    measure_fps,
    write_list,
)
from datasets.image_io import read_image, write_image
from datasets.parallel import in_processes, only_run
from datasets.transforms import resize_centre_crop
from datasets.video_io import iterate_frames

SETTINGS = ExtractionSettings(target_size=32, image_format="png")


def run(source: Path, target: Path, settings: ExtractionSettings = SETTINGS, **how: bool):
    work = extract_all(find_videos(source, target), target, settings, **how)
    return {outcome.name: outcome for outcome in work}


def report(target: Path) -> dict[str, dict[str, str]]:
    with (target / "process_report.csv").open() as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def test_frames_are_those_of_the_video_resized(folder_of_videos: Path, tmp_path: Path) -> None:
    outcomes = run(folder_of_videos, tmp_path / "t")
    assert [outcomes[name].status for name in ("00001", "00002", "00010")] == [
        "written",
        "written",
        "too short",
    ]
    files = sorted((tmp_path / "t" / "00001").glob("*.png"))
    assert [file.name for file in files] == [f"{k:06d}.png" for k in range(40)]
    for file, frame in zip(files, iterate_frames(folder_of_videos / "00001.mp4"), strict=True):
        assert torch.equal(read_image(file), resize_centre_crop(frame[None], 32)[0])
    manifest = json.loads((tmp_path / "t" / "00001" / "source.json").read_text())
    assert (manifest["source"], manifest["frames"], manifest["fps"]) == ("00001.mp4", 40, 25)
    assert not (tmp_path / "t" / ".partial").exists()


def test_the_report_gives_the_reasons(folder_of_videos: Path, tmp_path: Path) -> None:
    (folder_of_videos / "00003.avi").write_bytes(b"not a video")
    run(folder_of_videos, tmp_path / "t")
    rows = report(tmp_path / "t")
    assert list(rows) == ["00001", "00002", "00003", "00010"]
    assert rows["00001"]["frames"] == "40"
    assert rows["00003"]["status"] == "broken"
    assert "00003.avi: not readable as a video" in rows["00003"]["reason"]
    assert "9 frames, fewer than --min_frames 16" in rows["00010"]["reason"]
    assert not (tmp_path / "t" / "00003").exists()
    assert not (tmp_path / "t" / "00010").exists()


def test_damage_in_the_middle_leaves_no_frames(make_video, tmp_path: Path) -> None:
    path = make_video("in/a.mp4", count=120, group=20)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    outcomes = run(path.parent, tmp_path / "t")
    assert outcomes["a"].status == "broken"
    assert "a.mp4" in outcomes["a"].reason
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [".lock", "process_report.csv"]


def test_finished_videos_are_skipped_and_replaced_ones_made_anew(
    folder_of_videos: Path, tmp_path: Path, make_video
) -> None:
    run(folder_of_videos, tmp_path / "t")
    kept = (tmp_path / "t" / "00001" / "000000.png").stat().st_mtime_ns
    make_video("videos/00002.mp4", count=30)
    outcomes = run(folder_of_videos, tmp_path / "t")
    assert outcomes["00001"] == Outcome("00001", "present", 40, 25)
    assert (tmp_path / "t" / "00001" / "000000.png").stat().st_mtime_ns == kept
    assert (outcomes["00002"].status, outcomes["00002"].frames) == ("written", 30)
    assert len(list((tmp_path / "t" / "00002").glob("*.png"))) == 30


def test_other_settings_need_a_word(folder_of_videos: Path, tmp_path: Path) -> None:
    run(folder_of_videos, tmp_path / "t")
    other = ExtractionSettings(target_size=16, image_format="png")
    with pytest.raises(ValueError, match="00001: its frames were made with other settings"):
        run(folder_of_videos, tmp_path / "t", other)
    assert read_image(tmp_path / "t" / "00001" / "000000.png").shape == (3, 32, 32)
    run(folder_of_videos, tmp_path / "t", other, overwrite=True)
    assert read_image(tmp_path / "t" / "00001" / "000000.png").shape == (3, 16, 16)


def test_a_full_disk_is_no_broken_video(
    folder_of_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, image: torch.Tensor) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(frames_module, "write_image", full)
    with pytest.raises(OSError, match="No space left"):
        run(folder_of_videos, tmp_path / "t")
    monkeypatch.undo()
    assert run(folder_of_videos, tmp_path / "t")["00001"].status == "written"


def test_a_forced_rate_changes_the_number_of_frames(make_video, tmp_path: Path) -> None:
    path = make_video("in/a.mp4", count=40)  # 25 frames per second
    settings = ExtractionSettings(target_size=32, fps=12.5, image_format="png", min_frames=1)
    outcome = run(path.parent, tmp_path / "t", settings)["a"]
    assert (outcome.frames, outcome.fps) == (20, 12.5)
    strict = ExtractionSettings(target_size=32, fps=2.5, image_format="png")
    assert run(path.parent, tmp_path / "u", strict)["a"].status == "too short"


def test_subfolders_gifs_and_folders_of_frames(make_video, tmp_path: Path) -> None:
    make_video("in/one/a.mp4", count=20)
    make_video("in/two/a.gif", count=20, codec="gif")
    (tmp_path / "in" / "VID01").mkdir()
    for k in range(18):
        write_image(tmp_path / "in/VID01" / f"{k}.png", torch.zeros(3, 40, 60, dtype=torch.uint8))
    outcomes = run(tmp_path / "in", tmp_path / "in" / "t")
    assert {name: outcome.frames for name, outcome in outcomes.items()} == {
        "VID01": 18,
        "one/a": 20,
        "two/a": 20,
    }
    again = run(tmp_path / "in", tmp_path / "in" / "t")  # the target inside the source stays out
    assert {outcome.status for outcome in again.values()} == {"present"}


def test_names_that_clash_are_refused(make_video, tmp_path: Path) -> None:
    make_video("in/a.mp4", count=2)
    make_video("in/a.mkv", count=2)
    with pytest.raises(ValueError, match=r"a\.mkv and .*a\.mp4 would share the frames folder a"):
        find_videos(tmp_path / "in", None)
    assert len(find_videos(tmp_path / "in", None, ["MKV"])) == 1
    (tmp_path / "in/a.mkv").unlink()
    make_video("in/a/b.mp4", count=2)
    with pytest.raises(ValueError, match="would lie inside those of"):
        find_videos(tmp_path / "in", None)


def test_rates_are_measured_without_decoding(folder_of_videos: Path) -> None:
    outcomes = {o.name: o for o in measure_fps(find_videos(folder_of_videos, None))}
    assert outcomes["00010"].frames == 9
    assert outcomes["00001"].fps == pytest.approx(25)


def test_lists_are_relative_sorted_and_stable(folder_of_videos: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    run(folder_of_videos, target, ExtractionSettings(target_size=32, min_frames=1))
    (target / ".partial").mkdir()
    assert write_list(target, target / "all.txt") == (3, 69)
    lines = (target / "all.txt").read_text().splitlines()
    assert lines[0] == "00001/000000.jpg"
    assert lines[-1] == "00010/000008.jpg"
    assert lines == sorted(lines)
    write_list(target, target / "again.txt")
    assert (target / "again.txt").read_bytes() == (target / "all.txt").read_bytes()
    write_list(target, tmp_path / "above.txt")
    assert (tmp_path / "above.txt").read_text().splitlines()[0] == "t/00001/000000.jpg"
    with pytest.raises(ValueError, match="a list holds paths below its own folder"):
        write_list(target, tmp_path / "beside" / "list.txt")
    with pytest.raises(ValueError, match="no folders of frames"):
        write_list(folder_of_videos, folder_of_videos / "list.txt")


def test_two_runs_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.parallel.PATIENCE", 0.2)
    with only_run(tmp_path), pytest.raises(OSError, match="another run"), only_run(tmp_path):
        pass


def _square_or_stop(number: int) -> int:
    if number == 5:
        raise ValueError("five")
    if number == 6:
        os._exit(1)  # as the system does to a process that takes too much memory
    return number * number


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_work_in_processes() -> None:
    assert sorted(in_processes(_square_or_stop, [1, 2, 3], 2)) == [1, 4, 9]
    with pytest.raises(ValueError, match="five"):
        list(in_processes(_square_or_stop, [1, 5, 2], 2))
    with pytest.raises(OSError, match="want of memory"):
        list(in_processes(_square_or_stop, [6, 6], 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_size": 0}, "--target_size"),
        ({"fps": 0.0}, "--force_fps"),
        ({"min_frames": 0}, "--min_frames"),
    ],
)
def test_impossible_settings_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractionSettings(**settings)
