"""Data sets for diagnosis: small arrays of noise, with a red patch where they are abnormal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SIZE = 24  # pixels
Settings = Callable[..., list[str]]


def write_clip(path: Path, seed: int, label: int, frames: int = 12) -> None:
    random = np.random.default_rng(seed)
    video = random.integers(60, 120, (1, SIZE, SIZE, 3))
    video = video + random.integers(-8, 8, (frames, SIZE, SIZE, 3))
    if label:
        row, column = random.integers(0, SIZE - 10, 2)
        video[:, row : row + 10, column : column + 10, 0] += 100
    np.save(path, np.clip(video, 0, 255).astype(np.uint8))


def write_list(path: Path, names: list[str]) -> None:
    path.write_text("".join(f"{name},{k % 2}\n" for k, name in enumerate(names)))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled videos (16 to train, 8 to test) in data/, and 10 in pool/ with labels.csv."""
    root = tmp_path_factory.mktemp("diagnosis")
    data, pool = root / "data", root / "pool"
    data.mkdir()
    pool.mkdir()
    names = [f"v{k:02d}.npy" for k in range(24)]
    for k, name in enumerate(names):
        write_clip(data / name, k, k % 2)
    write_list(data / "train.csv", names[:16])
    write_list(data / "test.csv", names[16:])
    for k in range(10):
        write_clip(pool / f"p{k}.npy", 100 + k, k % 2)
    rows = [f"p{k},col,{k % 2},{k}" for k in range(10)]
    (pool / "labels.csv").write_text("\n".join(["name,style,label,seed", *rows]) + "\n")
    return root


@pytest.fixture(scope="session")
def settings(videos: Path) -> Settings:
    """Settings for seconds of training on these videos, as key=value, and any others."""

    def build(output: Path, *overrides: str) -> list[str]:
        return [
            f"output={output}",
            f"data.folder={videos / 'data'}",
            "data.fps=10",
            "data.unlabelled_fps=10",
            "data.window_seconds=1.0",
            "data.train_list=train.csv",
            "data.test_list=test.csv",
            "data.match_resolution=null",
            "data.workers=0",
            "data.labelled_per_class=4",
            "data.frames=2",
            "data.size=16",
            "network.size=tiny",
            "network.weights=null",
            "network.drop_path=0",
            "train.steps=6",
            "train.learning_rate=0.001",
            "train.head_learning_rate=0.001",
            "train.layer_decay=1",
            "train.ema_decay=0.999",
            "train.labelled_batch=4",
            "train.unlabelled_batch=4",
            "train.warmup_steps=2",
            "train.log_every=1",
            "train.threshold=0.5",
            "evaluate.windows=2",
            "seeds=[3]",
            *overrides,
        ]

    return build
