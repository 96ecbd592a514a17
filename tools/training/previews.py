"""Sample previews from fixed noise, so that pictures of different steps can be compared."""

from __future__ import annotations

import logging

import torch
from PIL import Image
from torch import Tensor

from models.interface import Method, Progress, VideoNoise
from tools.training.files import naming
from tools.training.logging import RunLog
from tools.training.runtime import Runtime
from tools.training.state import TrainState
from tools.training.stopping import StoppedError, StopRequest

FOLDER = "previews"  # inside the run folder

logger = logging.getLogger(__name__)


def preview_if_due(
    method: Method, state: TrainState, runtime: Runtime, log: RunLog, stop: StopRequest
) -> None:
    """Every train.preview_every steps and at the end, draw videos on the main process.

    The first average samples. The other processes wait. The global random numbers that this
    uses up do not matter, for every training step sets them anew. A request to stop ends it.
    """
    settings = state.settings
    last = state.step == settings.steps
    if not settings.preview_every or (state.step % settings.preview_every and not last):
        return
    log.pause()
    if runtime.is_main:
        try:
            videos = draw_previews(method, state, runtime, progress=stop.check)
            _write(contact_strip(videos), state.step, log)
        except StoppedError:
            logger.info("no preview of step %d, for the run is to stop", state.step)
        except FileNotFoundError as error:
            # Training from a cache does without the weights that decode; no reason to end it.
            logger.warning("no preview of step %d: %s", state.step, error)
    runtime.barrier()
    log.resume()


def draw_previews(
    method: Method, state: TrainState, runtime: Runtime, progress: Progress | None = None
) -> Tensor:
    """(train.preview_count, F, 3, H, W) in [-1, 1] from the first average, video k from seed k."""
    noise = VideoNoise(range(state.settings.preview_count), runtime.device)
    with torch.no_grad(), runtime.autocast():
        return method.preview(state.averages[0].networks, noise, progress)


def _write(strip: Tensor, step: int, log: RunLog) -> None:
    path = log.folder / FOLDER / f"step_{step:08d}.png"
    with naming(path):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(strip.permute(1, 2, 0).numpy()).save(path)
        log.add_preview(step, strip)


def contact_strip(videos: Tensor) -> Tensor:
    """One video per row, its frames from left to right.

    Input:   (B, F, 3, H, W) in [-1, 1]; what is not a number becomes black
    Output:  (3, B * H, F * W) uint8 on the CPU
    """
    pixels = videos.float().nan_to_num(-1).clamp(-1, 1).add(1).mul(127.5).round()
    rows = pixels.to(torch.uint8).cpu().permute(2, 0, 3, 1, 4)  # (3, B, H, F, W)
    return rows.flatten(3, 4).flatten(1, 2)
