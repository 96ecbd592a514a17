"""The study of diagnosis as a command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import semi_fixmatch
from datasets.simulator import simulate_clip
from datasets.video_io import write_video
from tools import diagnosis_study
from tools.diagnosis.study import Job
from tools.diagnosis_study import _plan, main

SMALL = (
    *("--train", "10", "--test", "8", "--videos", "3", "--workers", "1"),
    *("seeds=[0]", "data.size=16", "data.frames=2", "data.labelled_per_class=2"),
    *("network.size=tiny", "network.weights=null", "train.steps=2", "train.labelled_batch=2"),
    *("train.unlabelled_batch=2", "train.log_every=1", "evaluate.windows=1"),
)


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Videos that stand for generated ones."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for seed in range(3):
        write_video(folder / f"{seed}.mp4", simulate_clip(seed, frames=4, size=16).video, 8.0)
    return folder


def in_this_process(jobs: Sequence[Job], workers: int, say: Callable[[str], None]) -> None:
    """As `run_jobs`, without the seconds that a process takes to begin."""
    for job in jobs:
        assert semi_fixmatch.main(job.command[1:]) == 0


@pytest.mark.slow
def test_a_small_study_from_nothing_to_its_report(
    tmp_path: Path, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis_study, "run_jobs", in_this_process)
    monkeypatch.setattr(diagnosis_study, "FRAMES", 2)  # of the simulated videos
    output = tmp_path / "study"
    arguments = ["--output", str(output), "--generated", str(generated), *SMALL]
    assert main(arguments) == 0
    table = json.loads((output / "table.json").read_text())
    rows = {row["name"]: row for row in table["rows"]}
    trained = ["supervised", "+ real, unlabelled", "+ generated", "+ noise", "all labels"]
    trivial = ["all abnormal", "majority class", "length alone", "middle frame alone"]
    assert list(rows) == trained + trivial
    counts = {name: rows[name]["results"][0]["counts"] for name in trained}
    assert [counts[name]["unlabelled"] for name in trained] == [0, 6, 3, 3, 0]
    assert counts["+ generated"]["labelled"] == counts["supervised"]["labelled"] == 4
    assert counts["all labels"]["labelled"] > 4
    assert rows["supervised"]["difference"] == {}
    assert rows["+ noise"]["difference"]["auroc"]["verdict"]
    for name in ("report.html", "plot.png", "table.md", "table.csv", "videos.png"):
        assert (output / name).stat().st_size > 0
    results = sorted(output.glob("rows/*/seed_0/result.json"))
    times = [path.stat().st_mtime_ns for path in results]
    assert main(arguments) == 0  # nothing is trained again
    assert [path.stat().st_mtime_ns for path in results] == times
    with pytest.raises(ValueError, match=r"other values of train; choose another --output"):
        main([*arguments, "--train", "12"])


def test_too_few_generated_videos_are_refused(tmp_path: Path, generated: Path) -> None:
    arguments = ["--output", str(tmp_path / "study"), "--generated", str(generated), *SMALL]
    with pytest.raises(ValueError, match="3 videos, --videos asks for 5"):
        main([*arguments, "--train", "1", "--test", "1", "--videos", "5"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--train", "0"], "--train 0"),
        (["--generated-fps", "0"], "--generated-fps 0"),
        (["--workers", "-1"], "--workers -1"),
    ],
)
def test_numbers_that_make_no_study(arguments: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _plan(arguments)
