"""Prepared frames, piece by piece -> clips in batches -> the features of whole videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.metrics.features import FeatureExtractor

Outputs = dict[str, Tensor]
Windows = Sequence[Sequence[int]]


class VideoRows:
    """The rows of one video for one extractor, filled in as they come."""

    def __init__(self, rows: int, outputs: Mapping[str, int]) -> None:
        self.outputs = {name: torch.zeros(rows, width) for name, width in outputs.items()}
        self.missing = rows

    def put(self, row: int, values: Mapping[str, Tensor], place: int) -> None:
        """Keep row `place` of a batch's outputs as row `row`."""
        for name, kept in self.outputs.items():
            kept[row] = values[name][place]
        self.missing -= 1


@dataclass
class _Waiting:
    """One clip of a batch that is not yet full."""

    video: str
    row: int
    clip: Tensor  # (F, 3, H, W) uint8


class Batches:
    """One extractor, given clips one by one.

    Every batch has the same number of clips, the last one filled up with copies: then the
    features of a clip do not depend on how many others are left, so not on a stop and a resume
    or on the number of processes.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        batch_size: int,
        device: torch.device,
        finished: Callable[[str, Outputs], None],
    ) -> None:
        """`finished(video, outputs)` is called when all rows of a video are there."""
        self.extractor = extractor
        self.batch_size = batch_size
        self.device = device
        self.finished = finished
        self.waiting: list[_Waiting] = []
        self.videos: dict[str, VideoRows] = {}

    def begin(self, video: str, rows: int) -> None:
        """Expect so many clips of a video."""
        self.videos[video] = VideoRows(rows, self.extractor.outputs)

    def add(self, video: str, row: int, clip: Tensor) -> None:
        """One clip (F, 3, H, W) uint8."""
        if self.waiting and self.waiting[0].clip.shape != clip.shape:
            self.flush()
        self.waiting.append(_Waiting(video, row, clip))
        if len(self.waiting) == self.batch_size:
            self.flush()

    def flush(self) -> None:
        """Put the clips that wait through the extractor."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        clips = [each.clip for each in waiting]
        clips += [clips[-1]] * (self.batch_size - len(clips))
        values = self._features(torch.stack(clips), waiting)
        for place, each in enumerate(waiting):
            rows = self.videos[each.video]
            rows.put(each.row, values, place)
            if not rows.missing:
                del self.videos[each.video]
                self.finished(each.video, rows.outputs)

    def _features(self, clips: Tensor, waiting: Sequence[_Waiting]) -> Outputs:
        name = self.extractor.name
        try:
            with torch.inference_mode():
                found = self.extractor(clips.to(self.device))
                values = {key: found[key].float().cpu() for key in self.extractor.outputs}
        except torch.OutOfMemoryError:
            raise ValueError(
                f"{name}: the device has too little memory for {self.batch_size} inputs at once; "
                f"lower the batch size"
            ) from None
        for key, output in values.items():
            expected = (self.batch_size, self.extractor.outputs[key])
            if tuple(output.shape) != expected:
                raise RuntimeError(f"{name}: {key} of shape {tuple(output.shape)}, not {expected}")
            bad = (~output[: len(waiting)].isfinite()).any(dim=1).nonzero().flatten().tolist()
            if bad:
                raise ValueError(
                    f"{waiting[bad[0]].video}: its {key} by {name} are not finite; the weights of "
                    f"{name} may be damaged"
                )
        return values


class Assembly:
    """The frames of one video on their way into clips; holds no more of them than are needed."""

    def __init__(self, video: str, wanted: Sequence[tuple[Batches, Windows]]) -> None:
        """Inputs: for each extractor the windows, ordered by their start, all of one length."""
        self.video = video
        self.wanted = wanted
        self.due = [0] * len(wanted)  # the next window of each extractor
        self.held: dict[int, Tensor] = {}
        self.uses = Counter(k for _, windows in wanted for window in windows for k in window)
        for batches, windows in wanted:
            batches.begin(video, len(windows))

    def add(self, indices: Sequence[int], frames: Tensor) -> None:
        """More frames, later ones than before: (len(indices), 3, H, W) uint8."""
        self.held.update(zip(indices, frames, strict=True))
        for k, (batches, windows) in enumerate(self.wanted):
            while self.due[k] < len(windows) and windows[self.due[k]][-1] <= indices[-1]:
                window = windows[self.due[k]]
                batches.add(self.video, self.due[k], torch.stack([self.held[i] for i in window]))
                self.uses.subtract(window)
                self.due[k] += 1
        for index in [index for index in self.held if not self.uses[index]]:
            del self.held[index]
        for index in self.held.keys() & set(indices):
            # A copy: a frame that is held must not keep its whole piece in memory.
            self.held[index] = self.held[index].clone()

    @property
    def done(self) -> bool:
        """Whether every clip has been handed on."""
        return all(due == len(w) for (_, w), due in zip(self.wanted, self.due, strict=True))
