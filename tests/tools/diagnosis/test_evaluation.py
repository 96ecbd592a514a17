"""How test videos are judged: which frames, which network, and what becomes of several windows."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.diagnosis import load_diagnosis
from datasets.labelled import LabelledVideo
from semi_fixmatch import main
from tools.diagnosis.augment import DEVIATION, MEAN
from tools.diagnosis.checkpoint import SeedFiles
from tools.diagnosis.evaluation import judge_videos
from tools.diagnosis.learner import Learner
from tools.diagnosis.preparation import find_videos, open_reader
from tools.training.runtime import Runtime

Settings = Callable[..., list[str]]
RUNTIME = Runtime(torch.device("cpu"))


class Brightness(nn.Module):
    """Abnormal with the probability sigmoid of 4 x brightness."""

    def forward(self, videos: Tensor) -> Tensor:
        light = (videos * DEVIATION + MEAN).mean((1, 2, 3, 4))
        return torch.stack([torch.zeros_like(light), 4 * light], dim=1)


def probability(*levels: float) -> float:
    return float(np.mean([1 / (1 + np.exp(-4 * level / 255)) for level in levels]))


@pytest.fixture
def judged(settings: Settings, tmp_path: Path) -> Callable[..., float]:
    """What becomes of a video, with clips of 2 frames from windows of 10."""

    def judge(video: np.ndarray, *overrides: str) -> float:
        np.save(tmp_path / "video.npy", video.astype(np.uint8))
        config = load_diagnosis(None, settings(tmp_path / "row", *overrides))
        videos = [LabelledVideo(tmp_path / "video.npy", 1)]
        return float(judge_videos(config, Brightness(), videos, open_reader(config), RUNTIME)[0])

    return judge


def rising() -> np.ndarray:
    """12 frames of the values 0, 20 ... 220."""
    return np.broadcast_to(20 * np.arange(12)[:, None, None, None], (12, 16, 16, 3))


@pytest.mark.parametrize(
    ("overrides", "levels"),
    [
        (["evaluate.windows=1"], [(3 + 8) * 10]),
        (["evaluate.windows=3"], [(2 + 7) * 10, (3 + 8) * 10, (4 + 9) * 10]),
        (["evaluate.windows=3", "evaluate.top=2"], [(3 + 8) * 10, (4 + 9) * 10]),
        # Every frame of the file is beyond the second one of the clip.
        (["data.window=published", "evaluate.windows=3"], [(0 + 11) * 10]),
    ],
    ids=["one", "mean", "top", "published"],
)
def test_the_mean_over_windows_counts(
    judged: Callable[..., float], overrides: list[str], levels: list[float]
) -> None:
    assert judged(rising(), *overrides) == pytest.approx(probability(*levels), abs=1e-5)


@pytest.mark.parametrize(("place", "level"), [("centre", 100), ("left", 40)])
def test_the_square_in_the_middle_is_looked_at(
    judged: Callable[..., float], place: str, level: float
) -> None:
    wide = np.full((12, 16, 48, 3), 40)
    wide[:, :, 16:32] = 100
    found = judged(wide, f"evaluate.place={place}")
    assert found == pytest.approx(probability(level), abs=1e-5)


def test_the_average_of_the_weights_is_judged(
    settings: Settings, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learners: list[Learner] = []
    finish = SeedFiles.finish

    def keeping(self: SeedFiles, learner: Learner, result: Any) -> None:
        learners.append(learner)
        finish(self, learner, result)

    monkeypatch.setattr(SeedFiles, "finish", keeping)
    given = settings(tmp_path / "row", "report=false", "train.steps=3", "train.ema_warmup=false")
    (tmp_path / "row.yaml").write_text("{}")
    assert main(["--config", str(tmp_path / "row.yaml"), *given]) == 0
    config = load_diagnosis(None, given)
    test, reader = find_videos(config).test, open_reader(config)
    with (tmp_path / "row" / "seed_3" / "predictions.csv").open(newline="") as file:
        found = [float(row["probability"]) for row in csv.DictReader(file)]
    (learner,) = learners
    average, itself = learner.average.networks["classifier"], learner.classifier.eval()
    judged = [
        judge_videos(config, network, test, reader, RUNTIME).tolist()
        for network in (average, itself)
    ]
    assert found == pytest.approx(judged[0], abs=1e-7)
    assert found != pytest.approx(judged[1], abs=1e-4)
