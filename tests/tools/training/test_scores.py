"""Light metrics in training: they say something true, and training does not notice them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.load import load_run
from configs.schema import RunConfig
from datasets.clips import ClipDataset
from models.registry import build_method, method_config
from tools.metrics.extractors.registry import build_extractor
from tools.metrics.weights import WeightsOptions
from tools.training.checkpoints import checkpoint_files, read_checkpoint
from tools.training.logging import RunLog
from tools.training.runtime import Runtime
from tools.training.scores import TrainingScores, clips_of_videos
from tools.training.state import TrainState
from tools.training.stopping import StopRequest
from train import main

CPU = Runtime(torch.device("cpu"))
FVD, FLOOR = (f"fvd_like{which}_untrained_not_comparable" for which in ("", "_floor"))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of 20 frames, each in a colour of its own that grows brighter."""
    folder = tmp_path_factory.mktemp("frames")
    random = np.random.default_rng(0)
    for video in range(6):
        (folder / f"{video:05d}").mkdir()
        colour = random.integers(40, 160, 3)
        for index in range(20):
            pixels = np.clip(colour + 3 * index + random.normal(0, 8, (32, 32, 3)), 0, 255)
            path = folder / f"{video:05d}" / f"{index:06d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def arguments(root: Path, frames: Path, output: Path, *overrides: str) -> list[str]:
    """The toy as a command, measuring every other step."""
    config = ["--config", str(root / "configs/demo/toy.yaml"), f"output={output}"]
    data = [f"data.folder={frames}", "data.layout=frames", "clip.frames=4", "train.batch_size=2"]
    quiet = ["train.log_every=1", "train.preview_every=0", "train.metrics_count=4"]
    return [*config, *data, *quiet, "train.metrics_every=2", *overrides]


def settings(root: Path, frames: Path, output: Path, *overrides: str) -> RunConfig:
    _, path, *rest = arguments(root, frames, output, *overrides)
    return load_run(Path(path), rest, method_config)


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(output: Path) -> dict[str, object]:
    files = checkpoint_files(output / "checkpoints")
    content = read_checkpoint(files[max(files)])
    return {key: content[key] for key in ("networks", "ema", "optimizers")}


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)  # type: ignore[arg-type]
    if isinstance(one, dict):
        assert isinstance(other, dict)
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return all(same(a, b) for a, b in zip(one, other, strict=True))  # type: ignore[call-overload]
    return one == other


def test_training_is_the_same_bit_for_bit_with_and_without(
    root: Path, frames: Path, tmp_path: Path
) -> None:
    main(arguments(root, frames, tmp_path / "with", "train.steps=4", "data.images_per_clip=2"))
    off = ["train.metrics_every=0", "data.images_per_clip=2"]
    main(arguments(root, frames, tmp_path / "without", "train.steps=4", *off))
    assert same(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert not (tmp_path / "without" / "metrics.csv").exists()


def test_a_run_that_goes_on_repeats_neither_rows_nor_scores(
    root: Path, frames: Path, tmp_path: Path
) -> None:
    main(arguments(root, frames, tmp_path / "whole", "train.steps=6"))
    parts = arguments(root, frames, tmp_path / "parts", "train.save_every=2")
    main([*parts, "train.steps=4"])
    # As after a kill: a row that was measured after the newest checkpoint.
    with (tmp_path / "parts" / "metrics.csv").open("a") as file:
        file.write("6,1,1,1,1,1\n")
    main([*parts, "train.steps=6"])
    found, expected = rows(tmp_path / "parts"), rows(tmp_path / "whole")
    assert [row["step"] for row in found] == ["2", "4", "6"]
    for ours, theirs in zip(found, expected, strict=True):
        assert {**ours, "seconds": ""} == {**theirs, "seconds": ""}
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_every_score_says_that_it_is_not_comparable(
    root: Path, frames: Path, tmp_path: Path
) -> None:
    main(arguments(root, frames, tmp_path, "train.steps=2"))
    (row,) = rows(tmp_path)
    assert {name for name in row if "not_comparable" not in name} == {"step", "seconds"}
    log = (tmp_path / "log.txt").read_text()
    assert "metrics of step 2: fvd_like_untrained_not_comparable" in log
    assert "untrained features - not comparable with published numbers" in log
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert f"metrics/{FVD}".encode() in events
    assert b"not comparable with published numbers" in events


def test_a_model_that_knows_the_training_clips_scores_better(
    root: Path, frames: Path, tmp_path: Path
) -> None:
    """The toy's mean picture, right or wrong, tells whether scores look at samples and clips."""
    config = settings(root, frames, tmp_path, "train.steps=1", "method.noise=0.05")
    method = build_method(config)
    state = TrainState(method, config.train, CPU)
    dataset = ClipDataset(config.data, config.clip)
    mean = torch.stack([dataset[k]["videos"] for k in range(len(dataset))]).mean(dim=0)
    found = []
    for pixels in (mean, -torch.ones_like(mean), torch.full_like(mean, float("nan"))):
        state.averages[0].networks["mean"].pixels.copy_(pixels)
        scores = TrainingScores(config, CPU, 0)
        found.append(scores._measure(method, state, StopRequest(CPU))[FVD])
    assert found[0] < 0.5 * found[1]
    assert np.isfinite(found).all()


def test_training_clips_are_those_of_training(root: Path, frames: Path, tmp_path: Path) -> None:
    """Size, speed and flips of data and clip, and the floor is their own."""
    config = settings(root, frames, tmp_path, "data.flip=false", "clip.frame_interval=5")
    dataset = ClipDataset(config.data, config.clip)
    scores = TrainingScores(config, CPU, 0)
    real = scores._training_features(StopRequest(CPU))["fvd_like"]
    assert (len(real), len(real.videos)) == (8, 6)
    # With 4 frames 5 apart, a video of 20 has one place for a clip: frame 0.
    options = WeightsOptions(cache=tmp_path)
    network = build_extractor("untrained-clips", options, CPU.device, frames=4)
    clip = ((dataset[0]["videos"] + 1) * 127.5).round().to(torch.uint8)
    torch.testing.assert_close(real.values[0], network(clip[None])["features"][0])


def test_clips_are_spread_evenly_over_the_videos() -> None:
    assert [clips_of_videos(3, 8, 0).count(k) for k in range(3)] in (
        [3, 3, 2],
        [3, 2, 3],
        [2, 3, 3],
    )
    few = clips_of_videos(100, 8, 0)
    assert len(set(few)) == 8
    assert few == sorted(few)
    assert few != clips_of_videos(100, 8, 1)


def test_a_request_to_stop_ends_it(root: Path, frames: Path, tmp_path: Path) -> None:
    config = settings(root, frames, tmp_path)
    method = build_method(config)
    state = TrainState(method, config.train, CPU)
    state.step = 2
    stop = StopRequest(CPU)
    stop.signal_number = signal.SIGTERM
    with RunLog(config, CPU) as log:
        scores = TrainingScores(config, CPU, 0)
        scores.measure_if_due(method, state, log, stop)
    assert "no metrics of step 2" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_few_videos_have_no_floor(root: Path, frames: Path, tmp_path: Path, count: int) -> None:
    (tmp_path / "few").mkdir()
    for video in range(count):
        (tmp_path / "few" / f"{video:05d}").symlink_to(frames / f"{video:05d}")
    main(arguments(root, tmp_path / "few", tmp_path / "run", "train.steps=2"))
    assert not [name for name in rows(tmp_path / "run")[0] if "floor" in name]


@pytest.mark.slow
def test_two_processes_measure_what_one_measures(root: Path, frames: Path, tmp_path: Path) -> None:
    # Five samples: the second process has nothing to do in the last round.
    quiet = ["train.steps=2", "train.metrics_count=5", "train.learning_rate=1e-12"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "train.py"]
    subprocess.run(
        [*torchrun, *arguments(root, frames, tmp_path / "two", *quiet)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
        timeout=120,
    )
    main(arguments(root, frames, tmp_path / "one", *quiet))
    (two,), (one,) = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert two.keys() == one.keys()
    for name in two.keys() - {"seconds"}:
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-6)


@pytest.mark.parametrize("wrong", ["metrics_every=-1", "metrics_count=1", "metrics_extractor=i3d"])
def test_wrong_settings_are_named(root: Path, frames: Path, tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong.split("=")[0]):
        settings(root, frames, tmp_path, f"train.{wrong}")
