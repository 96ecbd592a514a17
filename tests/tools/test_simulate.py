"""The command that writes simulated clips: files, truth, going on, and one-line errors."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.simulator import simulate_clip
from datasets.video_io import frame_count, iterate_frames
from tools import simulate

SMALL = ["--frames", "2", "--size", "32", "--workers", "1"]


def run(folder: Path, *options: str) -> int:
    return simulate.main(["--folder", str(folder), *SMALL, *options])


def test_writes_clips_truth_and_labels(tmp_path: Path) -> None:
    assert run(tmp_path, "--clips", "2", "--styles", "col,cho", "--seed", "3") == 0
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["cho_00000.mp4", "col_00000.mp4"]
    assert frame_count(tmp_path / "col_00000.mp4") == 2
    clip = simulate_clip(300_000, frames=2, size=32)
    shown = np.stack([frame.numpy() for frame in iterate_frames(tmp_path / "col_00000.mp4")])
    if shown.shape[1] == 3:
        shown = shown.transpose(0, 2, 3, 1)
    assert np.abs(shown.astype(int) - clip.video).mean() < 6  # H.264 halves the colour resolution
    with np.load(tmp_path / "truth" / "col_00000.npz") as truth:
        assert np.array_equal(truth["poses"], clip.poses)
        assert np.array_equal(truth["intrinsics"], clip.intrinsics)
        assert np.allclose(truth["depth"], clip.depth, rtol=1e-3)
        assert np.array_equal(truth["mask"], clip.mask)
        assert np.array_equal(truth["boxes"], clip.lesion_boxes)
        assert (int(truth["label"]), str(truth["style"]), int(truth["seed"])) == (
            clip.lesion,
            "col",
            300_000,
        )
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["cho_00000", "col_00000"]
    assert rows[1] == {
        "name": "col_00000",
        "style": "col",
        "label": str(clip.lesion),
        "seed": "300000",
    }


def test_goes_on_and_makes_only_what_is_missing_or_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = simulate.make_clip

    def counted(job: simulate.Job) -> tuple[simulate.Recipe, int]:
        made.append(job.recipe.name)
        return real(job)

    monkeypatch.setattr(simulate, "make_clip", counted)
    run(tmp_path, "--clips", "1", "--no-truth")
    run(tmp_path, "--clips", "2", "--no-truth")
    assert made == ["col_00000", "col_00001"]
    (tmp_path / "col_00000.mp4").unlink()
    (tmp_path / ".col_00000.99.partial.mp4").write_bytes(b"left by a killed run")
    run(tmp_path, "--clips", "2", "--no-truth")
    assert made[2:] == ["col_00000"]
    assert not list(tmp_path.glob(".*.partial*"))
    run(tmp_path, "--clips", "1", "--no-truth", "--lesion", "always")
    assert made[3:] == ["col_00000"]
    assert not (tmp_path / "truth").exists()


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "one", "--clips", "2")
    run(tmp_path / "two", "--clips", "2", "--workers", "2")
    for name in ("col_00000.mp4", "col_00001.mp4", "labels.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--styles", "col,egd"], "--styles egd: choose one or more of col,kva,cho"),
        (["--size", "33"], "--size 33: use an even number"),
        (["--size", "8"], "--size 8"),
        (["--clips", "0"], "--clips 0"),
        (["--fps", "0"], "--fps 0"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, options: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run(tmp_path, *options)


def test_a_file_in_the_way_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["simulate", "--folder", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as stop:
        simulate.run_command(simulate.main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / simulate.RECORD).write_text("[1")
    with pytest.raises(ValueError, match=r"simulation\.json: not a record of clips"):
        run(tmp_path, "--clips", "1")
