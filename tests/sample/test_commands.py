"""The commands as a user starts them: in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable}


def start(command: list[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **ONE_THREAD, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    with start(command, folder, **variables) as process:
        out, err = process.communicate(timeout=180)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def videos(folder: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.load(file)["video"] for file in sorted(folder.glob("[0-9]*.npz"))}


@pytest.mark.parametrize("script", ["kva", "cho"])
def test_scripts_work_from_another_folder(
    root: Path, tmp_path: Path, weights: Path, script: str
) -> None:
    relative = str(weights.relative_to(tmp_path))
    command = ["bash", str(root / "sample" / f"{script}.sh"), relative]
    done = run([*command, "count=2", "output=here", "formats=[npz]"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(videos(tmp_path / "here")) == 2
    assert str(tmp_path / "here" / "contact_sheet.png") in done.stdout


@pytest.mark.parametrize("script", ["col.sh", "col_ddp.sh"])
def test_scripts_say_in_one_line_what_is_missing(root: Path, tmp_path: Path, script: str) -> None:
    command = ["bash", str(root / "sample" / script)]
    for arguments, message in (([], f"usage: bash sample/{script}"), (["gone.pt"], "gone.pt: no")):
        done = run([*command, *arguments], tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_user_error_is_one_line_without_traceback(root: Path, weights: Path) -> None:
    command = [sys.executable, "-m", "sample.sample", "--checkpoint", str(weights), "cuont=3"]
    done = run(command, root)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: settings: cuont: unknown key; did you mean count?"]


def test_the_command_for_one_process_refuses_to_be_one_of_several(
    root: Path, weights: Path
) -> None:
    command = [sys.executable, "-m", "sample.sample", "--checkpoint", str(weights)]
    done = run(command, root, WORLD_SIZE="2")
    assert done.returncode == 2
    assert "sample.sample_ddp" in done.stderr


@pytest.mark.slow
def test_two_processes_make_the_same_videos_as_one(
    root: Path, tmp_path: Path, weights: Path
) -> None:
    settings = ["count=7", "batch_size=2", "formats=[npz]"]
    one = ["bash", str(root / "sample" / "col.sh"), str(weights)]
    two = ["bash", str(root / "sample" / "col_ddp.sh"), str(weights)]
    alone = run([*one, *settings, f"output={tmp_path / 'one'}"], root)
    shared = run([*two, *settings, f"output={tmp_path / 'two'}"], root, GPUS="2")
    assert alone.returncode == 0, alone.stderr
    assert shared.returncode == 0, shared.stderr
    first, second = videos(tmp_path / "one"), videos(tmp_path / "two")
    assert len(first) == 7
    assert first.keys() == second.keys()
    for name, video in first.items():
        np.testing.assert_array_equal(video, second[name])
    sheets = [tmp_path / name / "contact_sheet.png" for name in ("one", "two")]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()


@pytest.mark.slow
def test_a_killed_job_goes_on_with_the_same_videos(
    root: Path, tmp_path: Path, weights: Path
) -> None:
    base = [sys.executable, "-m", "sample.sample", "--checkpoint", str(weights), "batch_size=1"]
    settings = ["count=60", "formats=[npz,png]"]
    killed = tmp_path / "killed"
    process = start([*base, *settings, f"output={killed}"], root)
    limit = time.monotonic() + 60
    while len(list(killed.glob("[0-9]*.npz"))) < 5 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 5 <= len(videos(killed)) < 60, "the job must be killed in the middle"

    again = run([*base, *settings, f"output={killed}"], root)
    whole = run([*base, *settings, f"output={tmp_path / 'whole'}"], root)
    assert (again.returncode, whole.returncode) == (0, 0), again.stderr + whole.stderr
    first, second = videos(killed), videos(tmp_path / "whole")
    assert len(first) == 60
    for name, video in second.items():
        np.testing.assert_array_equal(first[name], video)
    assert not list(killed.glob(".[0-9]*"))
