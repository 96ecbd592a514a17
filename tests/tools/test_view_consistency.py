"""Counting which videos pass: sets, intervals, tables, and going on after a stop."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tools import view_consistency as module
from tools.reconstruction.cameras.judge import Verdict
from tools.reconstruction.cameras.search import CameraOptions, Found, no_points
from tools.reconstruction.results.pass_rates import Row, markdown, summarise, wilson, write_tables
from tools.view_consistency import find_sets, main

SETTINGS = {"frames": 16, "stride": 1}


def video(path: Path, seed: int, frames: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    np.savez(path, video=rng.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8))


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    for number in range(3):
        video(folder / "alpha" / f"{number}.npz", number)
    video(folder / "beta" / "deep" / "0.npz", 5)
    video(folder / "beta" / "1.npz", 6, frames=4)
    return folder


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sums of the frames that were judged; videos with an even sum pass."""
    seen: list[int] = []

    def judge(frames: torch.Tensor, masks: object, options: CameraOptions, folder: Path) -> Found:
        seen.append(int(frames.sum()))
        passed = len(seen) % 2 == 1
        verdict = Verdict(
            passed,
            "colmap" if passed else "refused",
            {"motion_median": 0.05, "frames": len(frames), "reprojection": 0.5},
            () if passed else ("COLMAP placed 3 of 10 frames (needs 8)", "9 points (needs 100)"),
        )
        return Found(None, no_points(), verdict)

    monkeypatch.setattr(module, "find_cameras", judge)
    return seen


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(5, 10)
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((1 - 0.2775, 1), abs=1e-4)
    assert wilson(0, 0) == (0, 1)


def test_a_set_counts_what_came_of_its_videos() -> None:
    rows = [
        Row("a", "1", "passed", [], {"motion_median": 0.1, "reprojection": 0.4, "frames": 16}),
        Row("a", "2", "still", ["still"], {"motion_median": 0.01}),
        Row("a", "3", "refused", ["COLMAP placed 3 of 16 frames (needs 13)", "one step of"], {}),
        Row("a", "4", "left out", ["too short"], {}),
    ]
    line = summarise("a", rows)
    assert (line["videos"], line["passed"], line["still"], line["refused"]) == (3, 1, 1, 1)
    assert line["left_out"] == 1
    assert line["share"] == pytest.approx(1 / 3)
    assert line["motion"] == pytest.approx(0.055)
    assert dict(line["failed_on"]) == {"frames": 1, "jump": 1}
    assert "33% [6%, 79%]" in markdown([line], SETTINGS)


def test_a_set_without_judged_videos_has_no_share(tmp_path: Path) -> None:
    text = write_tables(tmp_path, [Row("a", "1", "left out", ["too short"])], SETTINGS)
    assert "| a | 0 | - | 0 | 0 | 1 |" in text
    assert json.loads((tmp_path / "pass_rates.json").read_text())["sets"][0]["share"] is None


def test_sets_are_the_folders_below(samples: Path) -> None:
    sets = find_sets([samples, samples / "alpha"])
    assert {name: len(videos) for name, videos in sets.items()} == {
        "samples/alpha": 3,
        "samples/beta": 2,
        "alpha": 3,
    }
    (samples / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos"):
        find_sets([samples / "empty"])


def test_videos_are_judged_once(samples: Path, judged: list[int], tmp_path: Path) -> None:
    output = tmp_path / "rates"
    given = [str(samples), "--output", str(output)]
    assert main(given) == 0
    assert len(judged) == 4  # the fifth has four frames
    first = (output / "pass_rates.md").read_text()
    assert "samples/alpha | 3 | 67%" in first
    assert main(given) == 0
    assert len(judged) == 4
    assert (output / "pass_rates.md").read_text() == first
    video(samples / "alpha" / "0.npz", 9, frames=12)  # replaced
    assert main(given) == 0
    assert len(judged) == 5
    (output / "videos" / "samples" / "alpha" / "alpha" / "1.json").write_text("{")
    assert main([*given, "--stride", "1"]) == 0
    assert len(judged) == 6
    with pytest.raises(ValueError, match="--stride 0"):
        main([*given, "--stride", "0"])


def test_the_table_of_videos_tells_all(samples: Path, judged: list[int], tmp_path: Path) -> None:
    main([str(samples), "--output", str(tmp_path / "rates")])
    with (tmp_path / "rates" / "videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    short = next(row for row in rows if row["outcome"] == "left out")
    assert "4 frames with --stride 1; 8 are needed" in short["reasons"]
    refused = next(row for row in rows if row["outcome"] == "refused")
    assert refused["reasons"].startswith("COLMAP placed 3 of 10")
    assert refused["reprojection"] == "0.5"
    assert len(judged) == 4
