"""A stopped run goes on exactly as if it had not stopped: on a CPU, bit for bit."""

from __future__ import annotations

import multiprocessing
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from configs.errors import run_command
from models.registry import method_names
from tools.training.checkpoints import checkpoint_files, read_checkpoint
from train import main

# What makes the demo of a method smaller, and free of files that it needs.
SMALLER = {
    "endora": [
        "method.codec={name: pixels, weights: null, stride: 8}",
        "method.prior.weights=untrained",
        "method.transformer.width=32",
        "method.transformer.heads=2",
        "train.initial_weights=null",
    ],
    "lvdm_autoencoder": [
        "method.width=2",
        "method.groups=2",
        "method.discriminator={weight: 0.5, start: 1, width: 4, layers: 2}",
        "clip.frames=4",
        "clip.size=32",
    ],
    "lvdm": [
        "method.autoencoder=untrained",
        "method.unet={width: 16, multipliers: [1, 2], groups: 8}",
        "method.calibration=2",
        "clip.frames=8",
        "clip.size=32",
    ],
    "lvdm_long": [
        "method.autoencoder=untrained",
        "method.unet={width: 16, multipliers: [1, 2], groups: 8}",
        "method.calibration=2",
        "clip.frames=16",
        "clip.size=32",
    ],
}
DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 40 noisy frames, one folder each."""
    folder = tmp_path_factory.mktemp("frames")
    generator = numpy.random.default_rng(0)
    for video in range(4):
        (folder / f"{video:05d}").mkdir()
        for index in range(40):
            pixels = generator.integers(0, 255, (40, 40, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / f"{video:05d}" / f"{index:06d}.png")
    return folder


def command(method: str, frames: Path, output: Path, *overrides: str) -> list[str]:
    shrunk = ["train.batch_size=1", "train.preview_every=0", "train.warmup_steps=3"]
    data = [f"data.folder={frames}", "data.layout=frames", "data.list=null", "data.workers=0"]
    config = ["--config", str(DEMO / f"{method}.yaml")]
    return [*config, f"output={output}", *data, *shrunk, *SMALLER.get(method, []), *overrides]


def final(output: Path) -> dict[str, Any]:
    """Networks, averages and optimizers of the newest checkpoint, and its step."""
    files = checkpoint_files(output / "checkpoints")
    content = read_checkpoint(files[max(files)])
    return {key: content[key] for key in ("step", "networks", "ema", "optimizers")}


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nested values differ, bit for bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [place]
    if isinstance(one, dict):
        keys = [] if one.keys() == other.keys() else [f"{place} (keys)"]
        shared = [key for key in one if key in other]
        return keys + [d for k in shared for d in differences(one[k], other[k], f"{place}/{k}")]
    if isinstance(one, (list, tuple)):
        pairs = zip(one, other, strict=True)
        return [found for a, b in pairs for found in differences(a, b, place)]
    return [] if one == other else [place]


@pytest.mark.parametrize("method", method_names())
def test_two_plus_two_steps_equal_four(method: str, frames: Path, tmp_path: Path) -> None:
    """Also with other data workers, and with previews and saves in between."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main(command(method, frames, whole, "train.steps=4"))
    main(command(method, frames, parts, "train.steps=2"))
    torch.manual_seed(9)  # whatever this process has drawn meanwhile
    others = ["data.workers=2", "train.save_every=1", "train.preview_every=3"]
    if method != "toy":  # a preview of a large model takes long; one method shows it
        others = others[:2]
    main(command(method, frames, parts, "train.steps=4", *others))
    assert final(whole)["step"] == 4
    assert not differences(final(whole), final(parts))


def test_accumulated_rounds_go_on_exactly_too(frames: Path, tmp_path: Path) -> None:
    rounds = "train.accumulation=3"
    main(command("toy", frames, tmp_path / "whole", "train.steps=4", rounds))
    main(command("toy", frames, tmp_path / "parts", "train.steps=3", rounds))
    main(command("toy", frames, tmp_path / "parts", "train.steps=4", rounds, "data.workers=1"))
    assert not differences(final(tmp_path / "whole"), final(tmp_path / "parts"))


def start(arguments: list[str], request: pytest.FixtureRequest) -> Any:
    """The command in a fresh process, forked from a server that has imported it already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "torch.utils.tensorboard", "torch._dynamo"])
    process = context.Process(target=run_command, args=(partial(main, arguments),))
    # Its data workers are forked from it, as those of the command are. By default they would come
    # from another server, which outlives a killed run.
    process._start_method = "fork"  # type: ignore[attr-defined]
    process.start()
    request.addfinalizer(process.kill)
    return process


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_exactly(
    frames: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SIGKILL again and again, mostly while a checkpoint is being written."""
    # Large clips and a save after every step: writing takes most of the time.
    steps = ["train.steps=60", "train.save_every=1", "train.keep_last=2", "train.log_every=1"]
    large = ["clip.frames=8", "clip.size=64", "train.learning_rate=1e-2"]
    main(command("toy", frames, tmp_path / "whole", *steps, *large, "train.save_every=60"))

    arguments = command("toy", frames, tmp_path / "killed", *steps, *large)
    moments = random.Random(0)
    reached: list[int] = []
    process = start(arguments, request)
    while len(reached) < 5:
        folder = tmp_path / "killed" / "checkpoints"
        before = max(checkpoint_files(folder), default=0)
        wait_for_more_than(before, folder, process)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        reached.append(max(checkpoint_files(folder)))
        workers = f"data.workers={len(reached) % 2}"
        process = start([*arguments, workers], request)
    process.join(120)
    assert process.exitcode == 0
    assert reached[0] < 60, "the first kill came after the end; make the run longer"
    assert not differences(final(tmp_path / "whole"), final(tmp_path / "killed"))
    assert not list((tmp_path / "killed").rglob("*.partial"))
    rows = (tmp_path / "killed" / "losses.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, 61))


def wait_for_more_than(step: int, folder: Path, process: Any) -> None:
    """Until a newer checkpoint appears, or the process ends."""
    deadline = time.monotonic() + 60
    while max(checkpoint_files(folder), default=0) <= step and process.is_alive():
        assert time.monotonic() < deadline, "no checkpoint within a minute"
        time.sleep(0.005)
