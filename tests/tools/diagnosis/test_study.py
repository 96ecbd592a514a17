"""Rows of a study, several at a time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.video_io import write_video
from tools.diagnosis.sheet import sheet
from tools.diagnosis.study import Job, run_jobs

FINISH = "import pathlib, sys\nfor name in sys.argv[1:]:\n    p = pathlib.Path(name)\n    \
p.parent.mkdir(parents=True, exist_ok=True)\n    p.write_text('{}')"


def job(folder: Path, *seeds: int) -> Job:
    """A row that finishes seeds at once."""
    files = (str(folder / f"seed_{seed}" / "result.json") for seed in seeds)
    return Job(folder.name, folder, ("-c", FINISH, *files), seeds)


def test_all_rows_run_and_progress_counts_seeds(tmp_path: Path) -> None:
    told: list[str] = []
    jobs = [job(tmp_path / "a", 0, 1), job(tmp_path / "b", 0)]
    run_jobs(jobs, 2, told.append)
    assert [each.done() for each in jobs] == [2, 1]
    assert any("3 of 3 runs, about 0:00 left" in line for line in told)


def test_time_left_is_that_of_new_seeds(tmp_path: Path) -> None:
    before = tmp_path / "a" / "seed_0" / "result.json"
    before.parent.mkdir(parents=True)
    before.write_text("{}")
    told: list[str] = []
    run_jobs([job(tmp_path / "a", 0, 1)], 1, told.append)
    assert told == ["a: 2 of 2 seeds; 2 of 2 runs, about 0:00 left"]


def test_a_row_that_fails_tells_why_and_ends_the_others(tmp_path: Path) -> None:
    said = "import sys; print('error: no such thing'); sys.exit(2)"
    failing = Job("bad", tmp_path / "bad", ("-c", said), (0,))
    slow = Job("slow", tmp_path / "slow", ("-c", "import time; time.sleep(600)"), (0,))
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"bad stopped with status 2: error: no such thing") as one:
        run_jobs([slow, failing], 2, print)
    assert str(tmp_path / "bad" / "console.txt") in str(one.value)
    assert time.monotonic() - began < 60  # the slow one was ended


def test_a_row_that_leaves_seeds_undone_is_no_success(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "seed_7").mkdir(parents=True)
    (folder / "seed_7" / "result.json").write_text("{}")  # of other settings: not asked for
    stopped = Job("a", folder, ("-c", "print('stopped as asked')"), (0,))
    with pytest.raises(ValueError, match="a stopped with status 0: stopped as asked"):
        run_jobs([stopped], 1, print)


def test_a_request_to_stop_ends_the_rows_as_well(tmp_path: Path) -> None:
    said = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text("
    slow = Job("slow", tmp_path / "slow", ("-c", f"{said}str(os.getpid())); time.sleep(600)"), (0,))
    asked = (
        f"import os, pathlib, signal, time\nwhile not pathlib.Path({str(tmp_path / 'pid')!r})"
        f".is_file(): time.sleep(0.05)\nos.kill({os.getpid()}, signal.SIGTERM)"
    )
    asking = Job("asking", tmp_path / "asking", ("-c", f"{asked}\ntime.sleep(600)"), (0,))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run_jobs([slow, asking], 2, print)
    assert stopped.value.code == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sheet_has_a_row_for_each_set(tmp_path: Path) -> None:
    for name, value in (("dark", 30), ("light", 220)):
        frames = np.full((3, 16, 16, 3), value, np.uint8)
        write_video(tmp_path / f"{name}.mp4", frames, 8.0)
    dark, light = tmp_path / "dark.mp4", tmp_path / "light.mp4"
    picture = sheet([[dark] * 20, [light]], 12)
    assert picture.shape == (12 + 2 + 12, 10 * 14 - 2, 3)
    assert picture[6, -6].mean() == pytest.approx(30, abs=6)
    assert picture[-6, 6].mean() == pytest.approx(220, abs=6)
    assert picture[-6, -6].mean() == 0
