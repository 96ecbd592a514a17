"""Two processes equal one: gradients, data and logs, on a CPU over gloo."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from configs.schema import TrainConfig
from tools.training.checkpoints import checkpoint_files, read_checkpoint
from tools.training.sharding import check_sharding
from train import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of 20 noisy frames, one folder each."""
    folder = tmp_path_factory.mktemp("frames")
    generator = numpy.random.default_rng(0)
    for video in range(5):
        (folder / f"{video:05d}").mkdir()
        for index in range(20):
            pixels = generator.integers(0, 255, (32, 32, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / f"{video:05d}" / f"{index:06d}.png")
    return folder


def arguments(frames: Path, output: Path, *overrides: str) -> list[str]:
    """The toy without randomness of its own, at a rate that moves it far in few steps."""
    toy = ["--config", str(ROOT / "configs/demo/toy.yaml"), "method.noise=0", "clip.frames=4"]
    data = [f"data.folder={frames}", "data.layout=frames", f"output={output}"]
    return [*toy, *data, "train.log_every=1", "train.preview_every=0", *overrides]


@contextlib.contextmanager
def launched(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Two processes by torchrun, in a session of their own, which ends with the block."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    # A port of its own choice, so that tests may run side by side.
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "train.py"]
    with subprocess.Popen(
        [*torchrun, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_stopped_once_equal_one_of_the_double_batch(
    frames: Path, tmp_path: Path
) -> None:
    two = arguments(frames, tmp_path / "two", "train.batch_size=2", "train.accumulation=2")

    # A stop that one process alone is asked for ends both after the same step.
    with launched(*two, "train.steps=1000000", "train.save_every=1000000") as process:
        wait_for(tmp_path / "two" / "losses.csv", process)
        os.kill(pid_of_rank(1, process.pid), signal.SIGTERM)
        errors = process.communicate(timeout=90)[1]
    assert process.returncode == 0, errors
    (step,) = checkpoint_files(tmp_path / "two" / "checkpoints")
    assert f"stopped at step {step} as asked" in errors

    with launched(*two, f"train.steps={step + 3}") as process:
        errors = process.communicate(timeout=90)[1]
    assert process.returncode == 0, errors

    one = tmp_path / "one"
    main(arguments(frames, one, "train.batch_size=8", f"train.steps={step + 3}"))
    saved, single = (
        read_checkpoint(tmp_path / name / "checkpoints" / f"step_{step + 3:08d}.pt")
        for name in ("two", "one")
    )
    assert saved["world_size"] == 2
    pixels, expected = (content["networks"]["mean"]["pixels"] for content in (saved, single))
    assert (expected - initial(frames, tmp_path)).abs().max() > 0.01  # it has moved
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)

    # The log tells the mean over both processes, once.
    assert [row["step"] for row in rows(tmp_path / "two")] == [str(k + 1) for k in range(step + 3)]
    for ours, theirs in zip(rows(tmp_path / "two"), rows(one), strict=True):
        assert float(ours["error"]) == pytest.approx(float(theirs["error"]), rel=1e-4)
        norms = [float(row["gradient_norm/mean"]) for row in (ours, theirs)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert (tmp_path / "two" / "log.txt").read_text().count(f"step {step + 3}/{step + 3}") == 1


# A small Endora, whose noise depends on the rank alone.
ENDORA = [
    *("--config", str(ROOT / "configs/demo/endora.yaml"), "clip.frames=4", "clip.size=32"),
    *("method.codec={name: pixels, weights: null, stride: 8}", "method.prior.weight=0"),
    *("method.transformer.width=32", "method.transformer.heads=2", "method.transformer.depth=4"),
    *("train.initial_weights=null", "train.batch_size=1", "train.accumulation=2"),
    *("train.preview_every=0", "train.learning_rate=1e-3", "train.clip_norm=0.5"),
]


@pytest.mark.slow
def test_a_sharded_model_trains_and_goes_on_like_a_whole_one(frames: Path, tmp_path: Path) -> None:
    """Its checkpoint is the same file, from which sharded and whole training go on alike."""
    data = [f"data.folder={frames}", "data.layout=frames", "data.workers=0"]
    plans = {"whole": [("none", 4)], "sharded": [("full", 2), ("full", 3), ("none", 4)]}
    for name, parts in plans.items():
        for sharding, steps in parts:
            settings = [f"train.sharding={sharding}", f"train.steps={steps}"]
            with launched(*ENDORA, *data, *settings, f"output={tmp_path / name}") as process:
                errors = process.communicate(timeout=240)[1]
            assert process.returncode == 0, errors
            assert "Warning" not in errors
    kept = ("networks", "ema", "optimizers")
    contents = [
        read_checkpoint(tmp_path / name / "checkpoints" / "step_00000004.pt") for name in plans
    ]
    one, other = ({key: content[key] for key in kept} for content in contents)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_sharding_says_what_it_cannot_go_with(frames: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.sharding: .*torchrun"):
        main(arguments(frames, tmp_path, "train.sharding=full", "train.steps=1"))
    networks = {"one": torch.nn.Linear(1, 1)}
    previews = TrainConfig(sharding="full")
    with pytest.raises(ValueError, match=r"set train\.preview_every=0"):
        check_sharding(previews, networks, is_run=True)
    with pytest.raises(ValueError, match="one network, this one trains one, two"):
        check_sharding(previews, {**networks, "two": networks["one"]}, is_run=True)


def initial(frames: Path, folder: Path) -> torch.Tensor:
    """The weights that both runs began with."""
    main(arguments(frames, folder / "first", "train.steps=1", "train.learning_rate=1e-12"))
    saved = read_checkpoint(folder / "first" / "checkpoints" / "step_00000001.pt")
    return saved["networks"]["mean"]["pixels"]


def pid_of_rank(rank: int, launcher: int) -> int:
    """The process of a rank among a launcher's children."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(process.name)
    raise AssertionError(f"no process of rank {rank}")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {path.name} within two minutes"
        time.sleep(0.05)
