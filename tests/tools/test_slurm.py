"""The Slurm script, with stand-ins for the scheduler's commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Starts the tasks of a step as Slurm does; `scancel --signal` reaches exactly those. As of Slurm
# 22.05, the number of cores comes from a variable of srun alone, not from the job.
SRUN = """#!/usr/bin/env bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
trap '' USR1
export SLURM_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-1}
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 python "$SIGNAL_OK" "$@" &
    echo $! >> "$TASKS"
done
status=0
for job in $(jobs -p); do wait "$job" || status=$?; done
exit $status
"""
# A process starts with the signals its parent ignores; this one takes USR1 again.
SIGNAL_OK = """import os, signal, sys
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
SCANCEL = '#!/usr/bin/env bash\necho "scancel $*" >> "$CALLS"\nkill -USR1 $(cat "$TASKS")\n'
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo 127.0.0.1; echo other; else echo "scontrol $*" >> "$CALLS"; fi
"""


@pytest.fixture
def cluster(root: Path, tmp_path: Path) -> dict[str, str]:
    """Environment variables of a job of two tasks in `tmp_path`, with a train.py that waits."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (commands / "python").symlink_to(sys.executable)
    (tmp_path / "signal_ok.py").write_text(SIGNAL_OK)
    (tmp_path / "train.py").write_text(
        "import os, signal, sys, time\n"
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'SLURM_CPUS_PER_TASK')\n"
        "def stop(*_):\n"
        "    open('saved' + os.environ['RANK'], 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGUSR1, stop)\n"
        "with open('started' + os.environ['RANK'], 'w') as file:\n"
        "    file.write(' '.join([*(os.environ[name] for name in names), *sys.argv[1:]]))\n"
        "if 'wait' in sys.argv: time.sleep(60)\n"
        "sys.exit(3 if 'fail' in sys.argv else 0)\n"
    )
    return {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "VIRTUAL_ENV": "active",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "77",
        "SLURM_CPUS_PER_TASK": "8",
        "TASKS": str(tmp_path / "tasks"),
        "CALLS": str(tmp_path / "calls"),
        "SIGNAL_OK": str(tmp_path / "signal_ok.py"),
    }


def submit(root: Path, cluster: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(root / "tools" / "slurm" / "train.slurm"), *arguments],
        env=cluster,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_task_learns_who_it_is(root: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    with submit(root, cluster, "configs/a.yaml", "train.steps=5") as job:
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    rest = "2 127.0.0.1 8 --config configs/a.yaml train.steps=5"
    assert (tmp_path / "started0").read_text() == f"0 0 {rest}"
    assert (tmp_path / "started1").read_text() == f"1 1 {rest}"
    assert not (tmp_path / "calls").exists()


def test_the_warning_before_the_time_limit_saves_and_queues_again(
    root: Path, tmp_path: Path, cluster: dict[str, str]
) -> None:
    with submit(root, cluster, "configs/a.yaml", "wait") as job:
        limit = time.monotonic() + 30
        while not all((tmp_path / f"started{k}").exists() for k in (0, 1)):
            assert time.monotonic() < limit
            time.sleep(0.02)
        job.send_signal(10)  # SIGUSR1, to the script alone
        output, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    assert (tmp_path / "saved0").exists()
    assert (tmp_path / "saved1").exists()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["scancel --signal=USR1 77", "scontrol requeue 77"]
    assert "queueing the job again" in output


def test_a_failure_is_not_queued_again(root: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    with submit(root, cluster, "configs/a.yaml", "fail") as job:
        job.communicate(timeout=60)
    assert job.returncode == 3
    assert not (tmp_path / "calls").exists()


def test_the_script_says_how_it_is_called(root: Path, cluster: dict[str, str]) -> None:
    with submit(root, cluster) as job:
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 2
    assert errors.startswith("usage: sbatch")
