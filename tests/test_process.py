"""process_data.py and process_list.py as users run them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from configs.errors import run_command
from datasets.catalogue import DATA_SETS
from datasets.video_io import write_video


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process, which saves the seconds that Python and torch need."""

    def in_process(program: str, *arguments: object) -> Done:
        module = importlib.import_module(program.removesuffix(".py"))
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            run_command(module.main)
        output = capsys.readouterr()
        return Done(int(stopped.value.code or 0), output.out, output.err)

    return in_process


def write_videos(folder: Path, counts: list[int], size: int = 64) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number, count in enumerate(counts, start=1):
        frames = random.integers(256, size=(count, size, size, 3), dtype=np.uint8)
        write_video(folder / f"{number:05d}.mp4", frames, fps=25)


def test_from_videos_to_a_list(run, tmp_path: Path) -> None:
    videos, frames = tmp_path / "Colonoscopic", tmp_path / "Colonoscopic_frames"
    write_videos(videos, [20, 17])
    first = run("process_data.py", "-s", videos, "-t", frames, "--num_workers", 1)
    assert (first.returncode, first.stderr) == (0, "")
    assert "2 videos written (37 frames" in first.stdout
    listed = run("process_list.py", "-f", frames, "-t", frames / "train_128_list.txt")
    assert listed.returncode == 0
    assert "37 frames of 2 videos" in listed.stdout
    lines = (frames / "train_128_list.txt").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("00001/000000.jpg", "00002/000016.jpg")


def test_problems_are_told_by_message_report_and_status(run, tmp_path: Path) -> None:
    write_videos(tmp_path / "v", [20, 5])
    (tmp_path / "v" / "00003.mp4").write_bytes(b"")
    done = run("process_data.py", "-s", tmp_path / "v", "-t", tmp_path / "f", "--num_workers", 1)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "00003.mp4: not readable as a video" in done.stderr
    assert "5 frames, fewer than --min_frames 16" in done.stderr
    assert "2 of 3 videos gave no frames" in done.stderr
    assert "1 videos written" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["process_data.py", "-s", "nowhere", "-t", "f"], "error: nowhere: no such folder"),
        (["process_data.py", "-s", "{empty}", "-t", "f"], "no folders of images in it"),
        (["process_data.py", "-s", "{empty}"], "error: -t FRAMES_DIR"),
        (["process_list.py", "-f", "{empty}", "-t", "{empty}/a.txt"], "no folders of frames"),
    ],
)
def test_user_errors_are_one_line(run, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*(argument.format(empty=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_told_and_the_same_command_goes_on(root: Path, run, tmp_path: Path) -> None:
    videos, frames = tmp_path / "v", tmp_path / "f"
    write_videos(videos, [16, 16], size=128)
    arguments = ["process_data.py", "-s", videos, "-t", frames]
    # No file may grow beyond 4 KiB: a frame of noise then ends as it does on a full disk.
    code = (
        "import resource, runpy, sys\n"
        "limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    full = subprocess.run(
        [sys.executable, "-B", "-c", code, *map(str, arguments), "--num_workers", "1"],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 2, full.stdout + full.stderr
    assert full.stderr.count("\n") == 1
    assert full.stderr.startswith(f"error: cannot write {frames}")
    assert "000000.jpg: File too large; free some space and run the same" in full.stderr
    assert not list(frames.glob("0*"))
    again = run(*arguments, "--num_workers", 1)
    assert again.returncode == 0, again.stderr
    assert len(list(frames.glob("0*/*.jpg"))) == 32
    assert not (frames / ".partial").exists()


def test_names_that_are_taken_are_told_with_what_to_do(run, tmp_path: Path) -> None:
    write_videos(tmp_path / "v", [16])
    taken, frames = tmp_path / "taken", tmp_path / "f"
    taken.write_text("mine")
    process = ("process_data.py", "-s", tmp_path / "v", "--num_workers", 1)
    in_the_way = "a file is where a folder has to be; choose another name"
    told = run(*process, "-t", taken)
    assert told.returncode == 2
    assert told.stderr == f"error: cannot write {taken}: File exists; {in_the_way}\n"
    told = run(*process, "--compute_fps_only", "-t", taken)
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: cannot write {taken / 'video_fps.csv'}: ")
    assert run(*process, "-t", frames).returncode == 0
    told = run("process_list.py", "-f", frames, "-t", frames)
    assert told.returncode == 2
    assert f"cannot write {frames}: Is a directory; it is a folder" in told.stderr
    assert taken.read_text() == "mine"


def test_only_the_rates(run, tmp_path: Path) -> None:
    write_videos(tmp_path / "v", [20, 5])
    done = run("process_data.py", "-s", tmp_path / "v", "--compute_fps_only", "--num_workers", 1)
    assert done.returncode == 0
    assert "00002: 25.000 frames/s, 5 frames" in done.stdout
    assert "2 videos: mean 25.000" in done.stdout


def test_a_killed_run_goes_on(root: Path, run, tmp_path: Path) -> None:
    videos, frames = tmp_path / "v", tmp_path / "f"
    write_videos(videos, [16] + [60] * 4)
    arguments = ["process_data.py", "-s", videos, "-t", frames, "--target_size", 256]
    arguments += ["--format", "png"]
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments), "--num_workers", "2"],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not (frames / "00001").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = {path.name: len(list(path.glob("*.png"))) for path in frames.glob("0*")}
    assert finished["00001"] == 16
    assert len(finished) < 5, "it finished before it could be killed"
    assert set(finished.values()) <= {16, 60}
    again = run(*arguments, "--num_workers", 1)
    assert again.returncode == 0, again.stderr
    found = re.search(r"(\d+) videos written .* (\d+) were there already", again.stdout)
    assert found, again.stdout
    written, there = map(int, found.groups())
    # Workers end their videos after the command was killed, perhaps only just.
    assert there >= len(finished)
    assert written + there == 5
    assert [len(list((frames / f"{k:05d}").glob("*.png"))) for k in range(1, 6)] == [16] + [60] * 4
    assert not (frames / ".partial").exists()


def test_two_processes_write_the_same_frames(root: Path, run, tmp_path: Path) -> None:
    write_videos(tmp_path / "v", [16, 17, 18])
    run("process_data.py", "-s", tmp_path / "v", "-t", tmp_path / "one", "--num_workers", 1)
    arguments = ["-s", tmp_path / "v", "-t", tmp_path / "two", "--num_workers", 2]
    done = subprocess.run(
        [sys.executable, "process_data.py", *map(str, arguments)],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.jpg"))
    assert len(files) == 51
    assert all(
        (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        for file in files
    )


def test_help_names_the_data_sets(run) -> None:
    done = run("process_data.py", "--help")
    assert done.returncode == 0
    assert all(f"data/{entry.folder} -> data/{entry.frames_folder}" in done.stdout
               for entry in DATA_SETS.values())  # fmt: skip
