"""How likely each test video is abnormal: the mean over windows spread over the video."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from configs.diagnosis import DiagnosisConfig
from datasets.labelled import ABNORMAL, LabelledVideo
from datasets.sampling import Failure, begin_worker, unchanged
from datasets.windows import Indices, even_windows, published_window
from tools.diagnosis.augment import normalise, plain_view
from tools.diagnosis.baselines import shown_name
from tools.diagnosis.clips import ClipReader
from tools.diagnosis.feeding import file_rate, scene_span
from tools.training.files import whole_file
from tools.training.runtime import Runtime


class Windows(Dataset["Tensor | Failure"]):
    """The clips of each video: (W, T, 3, S, S) uint8."""

    def __init__(
        self, config: DiagnosisConfig, videos: Sequence[LabelledVideo], reader: ClipReader
    ) -> None:
        self.config, self.videos, self.reader = config, videos, reader

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Tensor | Failure:
        path, data = self.videos[index].path, self.config.data
        try:
            clips = [self.reader.read(path, frames) for frames in self._windows(path)]
        except (ValueError, OSError) as error:
            return Failure(isinstance(error, FileNotFoundError), str(error))
        place = self.config.evaluate.place
        return torch.stack([plain_view(clip, data.size, place) for clip in clips])

    def _windows(self, path: Path) -> list[Indices]:
        data, count = self.config.data, self.reader.count(path)
        if data.window == "published":
            return [published_window(count, data.frames, file_rate(self.reader, path, data.fps))]
        span = scene_span(self.config, self.reader, path, data.fps)
        return even_windows(count, data.frames, span, self.config.evaluate.windows)


@torch.no_grad()
def judge_videos(
    config: DiagnosisConfig,
    network: nn.Module,
    videos: Sequence[LabelledVideo],
    reader: ClipReader,
    runtime: Runtime,
    each: Callable[[], None] = lambda: None,
) -> Tensor:
    """The probability of each video to be abnormal, (N,) float64 on the CPU, on every process.

    The network is used in the mode that it is in. `each` is called before every video of this
    process. Raises:  FileNotFoundError, ValueError for unreadable videos
    """
    own = list(videos[runtime.rank :: runtime.world_size])
    loader: DataLoader[Tensor | Failure] = DataLoader(
        Windows(config, own, reader),
        batch_size=None,
        num_workers=config.data.workers,
        worker_init_fn=begin_worker,
        collate_fn=unchanged,
        pin_memory=runtime.device.type == "cuda",
        generator=torch.Generator(),
    )
    result = torch.zeros(len(videos), dtype=torch.float64)
    places = range(runtime.rank, len(videos), runtime.world_size)
    for place, clips in zip(places, loader, strict=True):
        each()
        if isinstance(clips, Failure):
            raise clips.error()
        result[place] = _pooled(_abnormal(config, network, clips, runtime), config.evaluate.top)
    if runtime.is_distributed:
        shared = result.to(runtime.device)
        dist.all_reduce(shared)  # every process has zeros where others have judged
        result = shared.cpu()
    return result


def _abnormal(
    config: DiagnosisConfig, network: nn.Module, clips: Tensor, runtime: Runtime
) -> Tensor:
    """Probability of each window (W,)."""
    parts = []
    for part in clips.split(config.evaluate.batch_size):
        with runtime.autocast():
            logits = network(normalise(part.to(runtime.device)))
        parts.append(logits.double().softmax(dim=1)[:, ABNORMAL].cpu())
    return torch.cat(parts)


def _pooled(windows: Tensor, top: int) -> Tensor:
    return (windows.topk(min(top, len(windows))).values if top else windows).mean()


def write_predictions(
    path: Path, folder: Path, videos: Sequence[LabelledVideo], probabilities: Tensor
) -> None:
    """A table video,label,probability; videos by their place below `folder`."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", "label", "probability"])
    for video, probability in zip(videos, cast("list[float]", probabilities.tolist()), strict=True):
        table.writerow([shown_name(video, folder), video.label, f"{probability:.8f}"])
    with whole_file(path) as file:
        file.write(text.getvalue().encode())
