"""The views of a step depend on seed and step alone, and are those that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.diagnosis import DiagnosisConfig, load_diagnosis
from datasets.video_io import write_video
from tools.diagnosis.feeding import Failure, Steps, StepViews, Views, scene_span, window
from tools.diagnosis.preparation import find_videos, open_reader, split
from tools.training.runtime import Runtime

Settings = Callable[..., list[str]]
CPU = torch.device("cpu")


@pytest.fixture
def configure(settings: Settings, videos: Path, tmp_path: Path) -> Callable[..., DiagnosisConfig]:
    def make(*overrides: str) -> DiagnosisConfig:
        given = [f"unlabelled={videos / 'pool'}", "data.train_list=train.csv"]
        given += ["data.test_list=test.csv", "data.workers=0"]
        return load_diagnosis(None, settings(tmp_path, *given, *overrides))

    return make


def feed(config: DiagnosisConfig, seed: int = 3, rank: int = 0, processes: int = 1) -> StepViews:
    runtime = Runtime(CPU, rank=rank, world_size=processes)
    chosen = split(find_videos(config), config, seed)
    return StepViews(config, chosen, seed, open_reader(config), runtime)


def take(feed: StepViews, step: int) -> Views:
    views = feed[step]
    assert isinstance(views, dict)
    return views


def test_steps_are_functions_of_seed_and_step(
    configure: Callable[..., DiagnosisConfig],
) -> None:
    config = configure("algorithm=comatch")
    once, again, other = feed(config), feed(config), feed(config, seed=4)
    first = take(once, 0)
    later = take(once, 5)
    assert {name: part.shape for name, part in first.items()} == {
        "labelled": (4, 2, 3, 16, 16),
        "labels": (4,),
        "weak": (4, 2, 3, 16, 16),
        "strong": (4, 2, 3, 16, 16),
        "other": (4, 2, 3, 16, 16),
        "truth": (4,),
    }
    for name, part in take(again, 5).items():
        assert torch.equal(part, later[name])
    for name in ("labelled", "weak", "strong", "other"):
        assert not torch.equal(first[name], later[name])
        assert not torch.equal(later[name], take(other, 5)[name])


def test_processes_share_a_step(configure: Callable[..., DiagnosisConfig]) -> None:
    config = configure()
    whole = take(feed(config), 2)
    parts = [take(feed(config, rank=rank, processes=2), 2) for rank in range(2)]
    for name in whole:
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])


def test_batches_that_processes_cannot_share(configure: Callable[..., DiagnosisConfig]) -> None:
    with pytest.raises(ValueError, match=r"train\.labelled_batch: 4 clips .* 3 processes"):
        feed(configure(), processes=3)


def test_an_epoch_sees_every_labelled_video_once(
    configure: Callable[..., DiagnosisConfig],
) -> None:
    fed = feed(configure("algorithm=supervised"))
    labels = torch.cat([take(fed, step)["labels"] for step in range(2)])
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
    items = [item for step in range(2) for item in fed._items(step, 4)]
    assert sorted(fed._video(item, 0, 8) for item in items) == list(range(8))


def test_views_that_nobody_learns_from_are_not_made(
    configure: Callable[..., DiagnosisConfig],
) -> None:
    assert take(feed(configure("algorithm=supervised")), 0).keys() == {"labelled", "labels"}
    assert "strong" not in take(feed(configure("compat=endora")), 0)


def test_frames_of_a_generated_clip(
    configure: Callable[..., DiagnosisConfig], tmp_path: Path
) -> None:
    path = tmp_path / "generated.mp4"
    write_video(path, np.zeros((16, 24, 24, 3), np.uint8), 8.0)
    draw = np.random.default_rng(0)
    ours = configure("data.frames=8", "data.window_seconds=1.6")
    chosen = window(ours, open_reader(ours), path, 10.0, draw)
    assert chosen == [1, 3, 5, 7, 9, 11, 13, 15]
    published = configure("compat=endora", "data.frames=8")
    reader = open_reader(published)
    assert window(published, reader, path, 10.0, draw) == [0, 9, 15, 15, 15, 15, 15, 15]


def test_a_rate_that_nothing_tells(configure: Callable[..., DiagnosisConfig], videos: Path) -> None:
    config = configure("data.fps=null", "data.unlabelled_fps=null")
    video = videos / "data" / "v00.npy"
    with pytest.raises(ValueError, match=r"v00\.npy: nothing tells its frames per second"):
        scene_span(config, open_reader(config), video, None)
    assert scene_span(config, open_reader(config), video, 5.0) == 5


def test_a_video_that_breaks_while_training_is_named(
    configure: Callable[..., DiagnosisConfig], tmp_path: Path
) -> None:
    fed = feed(configure("algorithm=supervised"))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    object.__setattr__(fed.split.labelled[0], "path", broken)
    failed = [step for step in range(2) if isinstance(fed[step], Failure)]
    assert len(failed) == 1
    steps = Steps(fed, failed[0], 4, 0, CPU)
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        next(steps)
