"""Videos without labels help where they can, and nothing helps where labels mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from semi_fixmatch import main

ROOT = Path(__file__).resolve().parents[3]
SIZE = 24  # pixels


def write_clip(path: Path, seed: int, label: int, frames: int) -> None:
    """A patch somewhere on an uneven ground: reddish, or lighter or darker as a whole."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    ground = np.stack(
        [
            random.uniform(100, 115)
            + random.uniform(-10, 10) * rows
            + random.uniform(-10, 10) * columns
            for _ in range(3)
        ],
        axis=-1,
    )
    video = ground + random.normal(0, 6, (frames, SIZE, SIZE, 3))
    row, column = random.integers(2, SIZE - 11, 2)
    patch = video[:, row : row + 9, column : column + 9]
    patch += np.array([70, -35, -35]) if label else random.choice([-1, 1]) * 25
    np.save(path, np.clip(video, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train, 60 test and 80 other videos; the abnormal ones of the lists are shorter."""
    root = tmp_path_factory.mktemp("learning")
    for name, count, first in (("train", 24, 0), ("test", 60, 1000), ("pool", 80, 5000)):
        folder = root / name
        folder.mkdir()
        random = np.random.default_rng(first)
        for k in range(count):
            frames = 16
            if name != "pool":
                frames = int(random.integers(8, 20) if k % 2 else random.integers(16, 60))
            write_clip(folder / f"{k:03d}.npy", first + k, k % 2, frames)
        lines = [f"{name}/{k:03d}.npy,{k % 2}\n" for k in range(count)]
        (root / f"{name}.csv").write_text("".join(lines))
        wrong = [f"{name}/{k:03d}.npy,{(k + k // 2) % 2}\n" for k in range(count)]
        (root / f"{name}_wrong.csv").write_text("".join(wrong))  # half of either class
    return root


def auroc(data: Path, output: Path, seeds: int, *overrides: str) -> float:
    """The mean over seeds, of a few hundred clips each."""
    settings = [
        f"output={output}",
        f"data.folder={data}",
        "data.fps=10",
        "data.unlabelled_fps=10",
        "data.window_seconds=1.6",
        "data.frames=4",
        "data.size=16",
        "data.labelled_per_class=4",
        "network.size=tiny",
        "network.weights=null",
        "network.drop_path=0",
        "train.learning_rate=0.001",
        "train.head_learning_rate=0.001",
        "train.layer_decay=1",
        "train.warmup_steps=20",
        "train.ema_decay=0.999",
        "train.steps=80",
        "train.labelled_batch=4",
        "train.unlabelled_batch=8",
        "train.threshold=0.9",
        "evaluate.windows=2",
        f"seeds={list(range(seeds))}",
        "report=false",
        "keep_weights=false",
        *overrides,
    ]
    assert main(["--config", str(ROOT / "configs/downstream/demo.yaml"), *settings]) == 0
    results = [output / f"seed_{seed}" / "result.json" for seed in range(seeds)]
    return mean(json.loads(file.read_text())["scores"]["auroc"] for file in results)


@pytest.mark.slow
def test_fixmatch_beats_supervised_training_where_the_others_tell_something(
    data: Path, tmp_path: Path
) -> None:
    supervised = auroc(data, tmp_path / "supervised", 3)
    with_others = auroc(data, tmp_path / "fixmatch", 3, f"unlabelled={data / 'pool'}")
    assert supervised > 0.65
    assert with_others > supervised


@pytest.mark.slow
@pytest.mark.parametrize("unlabelled", ["none", "pool"])
def test_labels_that_mean_nothing_teach_nothing(
    data: Path, tmp_path: Path, unlabelled: str
) -> None:
    pool = "none" if unlabelled == "none" else str(data / unlabelled)
    given = ["data.train_list=train_wrong.csv", "data.labelled_per_class=12", "train.steps=40"]
    assert auroc(data, tmp_path, 2, f"unlabelled={pool}", *given) == pytest.approx(0.5, abs=0.2)
