from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.load import load_run
from models.registry import build_method, method_config
from tools.training.logging import RunLog
from tools.training.previews import contact_strip, draw_previews, preview_if_due
from tools.training.runtime import Runtime
from tools.training.state import TrainState
from tools.training.stopping import StopRequest

CPU = Runtime(torch.device("cpu"))


def test_a_strip_has_a_row_per_video_and_a_column_per_frame() -> None:
    videos = torch.zeros(2, 3, 3, 4, 5)
    videos[1, 2] = 1.0  # the last frame of the second video is white
    videos[0, 0] = -1.0
    strip = contact_strip(videos)
    assert strip.shape == (3, 2 * 4, 3 * 5)
    assert strip.dtype == torch.uint8
    assert (strip[:, 4:, 10:] == 255).all()
    assert (strip[:, :4, :5] == 0).all()
    assert (strip[:, :4, 5:] == 128).all()


def test_what_is_no_number_is_black() -> None:
    assert contact_strip(torch.full((1, 1, 3, 2, 2), float("nan"))).max() == 0


@pytest.mark.parametrize(("step", "due"), [(2, True), (3, False), (5, True)])
def test_previews_come_when_due_and_at_the_end(
    tmp_path: Path, root: Path, step: int, due: bool
) -> None:
    overrides = [f"output={tmp_path}", "train.steps=5", "train.preview_every=2"]
    config = load_run(root / "configs/demo/toy.yaml", overrides, method_config)
    method = build_method(config)
    state = TrainState(method, config.train, CPU)
    state.step = step
    with RunLog(config, CPU) as log:
        preview_if_due(method, state, CPU, log, StopRequest(CPU))
    path = tmp_path / "previews" / f"step_{step:08d}.png"
    assert path.exists() == due
    if due:
        with Image.open(path) as image:
            assert image.size == (8 * 32, 4 * 32)


def test_previews_use_the_average_and_fixed_noise(tmp_path: Path, root: Path) -> None:
    config = load_run(root / "configs/demo/toy.yaml", [f"output={tmp_path}"], method_config)
    method = build_method(config)
    state = TrainState(method, config.train, CPU)
    first = draw_previews(method, state, CPU)
    torch.nn.init.constant_(state.networks["mean"].pixels, 1.0)
    torch.rand(5)
    assert torch.equal(draw_previews(method, state, CPU), first)
    torch.nn.init.constant_(state.averages[0].networks["mean"].pixels, 1.0)
    assert not torch.equal(draw_previews(method, state, CPU), first)


def test_a_request_to_stop_ends_a_preview(tmp_path: Path, root: Path) -> None:
    overrides = [f"output={tmp_path}", "train.preview_every=2"]
    config = load_run(root / "configs/demo/toy.yaml", overrides, method_config)
    method = build_method(config)
    state = TrainState(method, config.train, CPU)
    state.step = 2
    stop = StopRequest(CPU)
    stop.signal_number = 15
    with RunLog(config, CPU) as log:
        preview_if_due(method, state, CPU, log, stop)
    assert not (tmp_path / "previews").exists()
    assert "no preview of step 2" in (tmp_path / "log.txt").read_text()
