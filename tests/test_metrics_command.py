"""metrics.py as users run it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metrics
from configs.errors import run_command

ROOT = Path(__file__).resolve().parent.parent
CAVEAT = "untrained features - not comparable with published numbers"
UNTRAINED = ["--extractor", "untrained", "--workers", "0"]
AS_STORED = ["--set", "real_stride=1", "frame_size=16", "is_splits=2"]
FILES = ["metrics.csv", "metrics.json", "metrics.md", "metrics.png"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def write_videos(folder: Path, seed: int = 0, count: int = 5, frames: int = 18) -> Path:
    """Noise of one colour each, lossless."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        colour = random.integers(60, 160, (1, 1, 1, 3))
        video = colour + random.normal(0, 20, (frames, 16, 16, 3))
        pixels = np.clip(video, 0, 255).astype(np.uint8)
        np.savez_compressed(folder / f"{index:06d}.npz", video=pixels)
    return folder


def write_samples(folder: Path, step: int, seed: int) -> Path:
    """A folder as sampling leaves it, of a run whose settings lie two folders above."""
    write_videos(folder, seed)
    record = {
        "made_by": {"method": "toy", "step": step},
        "checkpoint": str(folder.parent.parent),
        "complete": True,
        "videos": {f"{index:06d}": index for index in range(5)},
    }
    (folder / "samples.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return write_videos(tmp_path / "real", seed=9, count=6, frames=60)


@pytest.fixture
def run_folder(tmp_path: Path, real: Path) -> Path:
    """A run with two folders of samples, trained on `real` at stride 3."""
    folder = tmp_path / "runs" / "toy"
    for step, seed in ((1000, 1), (2000, 2)):
        write_samples(folder / "samples" / f"step_{step:08d}", step, seed)
    settings = {
        "method_name": "toy",
        "output": str(folder),
        "data": {"folder": str(real), "list": None, "layout": "auto"},
        "clip": {"frames": 16, "size": 16, "frame_interval": 3},
    }
    (folder / "config.yaml").write_text(json.dumps(settings))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDORA_CACHE", str(tmp_path / "cache"))
    for name in list(os.environ):
        if name.startswith("ENDORA_WEIGHTS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, which saves the seconds that Python and torch need."""

    def in_process(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["metrics.py", *command])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run_command(metrics.main)
        output = capfd.readouterr()
        return subprocess.CompletedProcess(
            command, int(stopped.value.code or 0), output.out, output.err
        )

    return in_process


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of its own process."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return content


def scores(folder: Path) -> dict[tuple[str, str], float]:
    return {
        (each["name"], score["name"]): score["value"]
        for each in read(folder)["sets"]
        for score in each["scores"]
    }


# ---------------------------------------------------------------- as it should be


def test_a_command_of_its_own_prints_a_table_and_writes_four_files(
    tmp_path: Path, real: Path
) -> None:
    generated = write_videos(tmp_path / "ours", seed=1)
    output = tmp_path / "out"
    done = python(
        "metrics.py",
        *("--model_path", generated, "--real_path", real, "--output", output),
        *("--metrics", "fvd,fid,is,kid", *AS_STORED, *UNTRAINED),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for part in (
        "FVD* ↓",
        "FID* ↓",
        "IS* ↑",
        "KID* ↓",
        CAVEAT,
        "6 videos, 6 clips",
        "real_stride=1",
    ):
        assert part in done.stdout, part
    assert sorted(path.name for path in output.iterdir()) == FILES
    found = read(output)
    assert found["inputs"]["metrics"] == ["fvd", "fid", "is", "kid"]
    assert (
        found["environment"]["git_commit"] is None or len(found["environment"]["git_commit"]) == 40
    )
    assert found["environment"]["command"][0] == "metrics.py"
    assert found["protocol"]["seed"] == 0
    rows = list(csv.DictReader((output / "metrics.csv").read_text().splitlines()))
    assert [row["metric"] for row in rows] == ["fvd", "fid", "is", "kid"]
    assert (output / "metrics.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path, real: Path) -> None:
    generated = write_videos(tmp_path / "ours", seed=1)
    command = ["metrics.py", "--model_path", generated, "--real_path", real, *AS_STORED, *UNTRAINED]
    command += ["--metrics", "all", "--no_cache"]
    one = python(*command, "--output", tmp_path / "one")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    launch += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    two = python(*launch, *command, "--output", tmp_path / "two")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert two.stdout.count("metric ") == 1  # one process alone prints
    first, second = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert first.keys() == second.keys()
    assert len(first) > 8
    for key, value in first.items():
        assert second[key] == pytest.approx(value, rel=1e-6, abs=1e-7), key


def test_a_run_folder_knows_its_samples_its_data_and_its_stride(run: Run, run_folder: Path) -> None:
    done = run("--model_path", run_folder, "--set", "is_splits=2", *UNTRAINED)
    assert done.returncode == 0, done.stderr
    output = run_folder / "metrics" / "step_00002000-default-untrained"
    found = read(output)
    assert [each["step"] for each in found["sets"]] == [2000]
    assert found["protocol"]["real_stride"] == 3
    assert found["real"]["path"].endswith("/real")
    assert "the real videos are the training set" in done.stdout
    assert "strides differ" not in done.stdout
    # Another extractor or protocol does not overwrite this report, and no result is a video now.
    again = run("--model_path", run_folder, "--protocol", "endora", "--metrics", "fvd", *UNTRAINED)
    assert again.returncode == 0, again.stderr
    assert "the strides differ: trained at stride 3" in again.stdout
    assert read(output) == found
    assert (run_folder / "metrics" / "step_00002000-endora-untrained" / "metrics.json").is_file()


def test_samples_of_one_run_make_a_curve(run: Run, run_folder: Path) -> None:
    folders = sorted((run_folder / "samples").iterdir())
    output = run_folder / "curve"
    done = run("--model-path", *folders, "--metrics", "fid", "--output", output, *UNTRAINED)
    assert done.returncode == 0, done.stderr
    found = read(output)
    assert [(each["name"], each["step"]) for each in found["sets"]] == [
        ("step_00001000", 1000),
        ("step_00002000", 2000),
    ]
    assert {each["run"] for each in found["sets"]} == {str(run_folder)}


def test_sets_of_one_name_are_told_apart_by_their_paths(
    run: Run, tmp_path: Path, real: Path
) -> None:
    for method in ("ours", "theirs"):
        write_videos(tmp_path / "peers" / method / "col", seed=len(method))
    sets = [tmp_path / "peers" / method / "col" for method in ("ours", "theirs")]
    command = ["--real_path", real, "--metrics", "kid", *AS_STORED, *UNTRAINED]
    done = run("--model_path", *sets, *command, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [each["name"] for each in read(tmp_path / "out")["sets"]] == ["ours", "theirs"]
    named = run("--model_path", *sets, *command, "--names", "A", "B", "--output", tmp_path / "out")
    assert [each["name"] for each in read(tmp_path / "out")["sets"]] == ["A", "B"]
    assert named.returncode == 0


def test_the_second_run_takes_features_from_the_cache(run: Run, tmp_path: Path, real: Path) -> None:
    generated = write_videos(tmp_path / "ours", seed=1)
    command = ["--model_path", generated, "--real_path", real, *AS_STORED, *UNTRAINED]
    first = run(*command, "--output", tmp_path / "first")
    second = run(*command, "--output", tmp_path / "second")
    without = run(*command, "--no-cache", "--output", tmp_path / "third")
    assert [done.returncode for done in (first, second, without)] == [0, 0, 0]
    assert scores(tmp_path / "first") == scores(tmp_path / "second") == scores(tmp_path / "third")
    reused = [read(tmp_path / name)["real"]["extra"] for name in ("first", "second", "third")]
    assert [each["reused_from_cache"] for each in reused] == [0, 6, 0]


def test_all_leaves_out_what_cannot_be_computed_and_says_so(
    run: Run, tmp_path: Path, real: Path
) -> None:
    generated = write_videos(tmp_path / "ours", seed=1)
    command = ["--model_path", generated, "--real_path", real, *UNTRAINED, "--metrics", "all"]
    done = run(*command, "--set", "real_stride=1", "frame_size=16", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "video IS is left out: 5 samples do not fill 10 splits" in done.stdout
    names = {name for _, name in scores(tmp_path / "out")}
    assert {"fvd", "fid", "is", "kid", "kvd", "recall", "fvd_frozen", "memorisation"} <= names
    assert "video_is" not in names
    assert (tmp_path / "out" / "memorisation-ours.png").is_file()


def test_help_and_list_answer_at_once_without_torch() -> None:
    started = time.monotonic()
    shown = python("metrics.py", "--help")
    assert time.monotonic() - started < 10  # about 0.2 s on an idle machine
    assert shown.returncode == 0
    assert "--model_path" in shown.stdout
    imported = python("-c", "import metrics, sys; print('torch' in sys.modules)")
    assert imported.stdout.strip() == "False"


def test_list_prints_protocols_metrics_and_weights(run: Run) -> None:
    done = run("--list")
    assert done.returncode == 0
    for part in (
        "real_stride",
        "stylegan-v",
        "50000",
        "FVD ↓",
        "IS ↑",
        "i3d_torchscript.pt",
        "bec6519f",
    ):
        assert part in done.stdout, part


# ---------------------------------------------------------------- what a user can get wrong


def test_missing_weights_are_one_line_that_says_what_to_do(
    run: Run, tmp_path: Path, real: Path
) -> None:
    generated = write_videos(tmp_path / "ours", seed=1)
    command = ["--model_path", generated, "--real_path", real, "--set", "real_stride=1"]
    for chosen in ([], ["--metrics", "fvd"], ["--metrics", "all"]):
        done = run(*command, *chosen, "--output", tmp_path / "out")
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        for part in (
            "FVD needs the I3D weights i3d_torchscript.pt",
            "--weights i3d=PATH",
            "untrained",
        ):
            assert part in done.stderr, part
    assert not (tmp_path / "out").exists()


def test_a_wrong_weights_file_is_refused_before_it_is_opened(
    run: Run, tmp_path: Path, real: Path
) -> None:
    generated = write_videos(tmp_path / "ours", seed=1)
    (tmp_path / "other.pt").write_bytes(b"not a network")
    command = ["--model_path", generated, "--real_path", real, "--set", "real_stride=1"]
    for chosen in ("fvd", "all"):
        weights = f"i3d={tmp_path / 'other.pt'}"
        done = run(*command, "--metrics", chosen, "--weights", weights)
        assert done.returncode == 2
        assert "SHA-256" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model_path: name at least one folder"),
        (["--model_path", "nowhere"], "nowhere: no such folder"),
        (["--model_path", "OURS", "--real_path", "nowhere"], "nowhere: no such folder"),
        (["--model_path", "OURS"], "--real_path: say where the real videos are"),
        (["--model_path", "EMPTY", "--real_path", "REAL"], "empty: no video files"),
        (["--model_path", "ONE", "--real_path", "REAL"], "only one video in it"),
        (["--model_path", "OURS", "OURS", "--real_path", "REAL"], "is given twice"),
        (["--model_path", "OURS", "--real_path", "REAL"], "--set real_stride=N"),
        (["--model_path", "OURS", "--metrics", "fvdd"], "--metrics fvdd: no such metric"),
        (["--model_path", "OURS", "--metrics", "cdfvd"], "untrained cannot compute it"),
        (["--model_path", "OURS", "--protocol", "paper"], "--protocol paper: neither a preset"),
        (["--model_path", "OURS", "--set", "real_strid=3"], "did you mean real_stride?"),
        (["--model_path", "OURS", "--set", "real_stride"], "not of the form key=value"),
        (["--model_path", "OURS", "--set", "clip_frames=0"], "clip_frames: at least 1"),
        (["--model_path", "OURS", "--weights", "i3d"], "--weights i3d: NAME=PATH"),
        (["--model_path", "OURS", "--batch_size", "0"], "--batch_size: at least 1"),
        (["--model_path", "OURS", "--real_path", "REAL", "--names", "a", "b"], "--names: 1 diff"),
        (
            ["--model_path", "OURS", "--real_path", "REAL", "--output", "OURS/metrics"],
            "lies inside the videos of",
        ),
        (
            ["--model_path", "OURS", "--real_path", "REAL", "--set", "real_stride=9"],
            "long enough",
        ),
        (
            ["--model_path", "BROKEN", "--real_path", "REAL", "--set", "real_stride=1"],
            "000003.npz",
        ),
        (
            ["--model_path", "OURS", "--real_path", "REAL", "--held_out", "REAL"],
            "a side of the comparison already",
        ),
        (
            ["--model_path", "OURS", "--metrics", "is", "--output", "REAL/000000.npz/report"],
            "000000.npz is a file; choose another folder",
        ),
        (
            ["--model_path", "OURS", "--metrics", "is", "--protocol", "stylegan-v"],
            "IS: the protocol wants 50000 samples and there are 90",
        ),
    ],
)
def test_bad_input_is_one_line_and_no_result(
    run: Run, tmp_path: Path, real: Path, arguments: list[str], message: str
) -> None:
    places = {
        "OURS": write_videos(tmp_path / "ours", seed=1),
        "ONE": write_videos(tmp_path / "one", count=1),
        "EMPTY": tmp_path / "empty",
        "BROKEN": write_videos(tmp_path / "broken", seed=1),
        "REAL": real,
    }
    places["EMPTY"].mkdir()
    (places["BROKEN"] / "000003.npz").write_bytes(b"PK not an archive")
    given = [
        str(places[head] / rest) if (head := each.partition("/")[0]) in places else each
        for each in arguments
        for rest in [each.partition("/")[2]]
    ]
    done = run(*given, *UNTRAINED)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("metrics.json"))


def test_runs_with_other_data_or_strides_do_not_share_a_real_side(
    run: Run, tmp_path: Path, run_folder: Path
) -> None:
    other = tmp_path / "runs" / "other"
    write_samples(other / "samples" / "step_00000005", 5, 3)
    settings = json.loads((run_folder / "config.yaml").read_text())
    settings["clip"]["frame_interval"] = 2
    (other / "config.yaml").write_text(json.dumps(settings))
    done = run("--model_path", run_folder, other, "--metrics", "fvd", *UNTRAINED)
    assert done.returncode == 2
    assert "trained with different strides (2, 3)" in done.stderr
    settings["data"]["folder"] = str(write_videos(tmp_path / "real2"))
    (other / "config.yaml").write_text(json.dumps(settings))
    done = run("--model_path", run_folder, other, "--metrics", "fid", *UNTRAINED)
    assert done.returncode == 2
    assert "the sets were trained on different data" in done.stderr
