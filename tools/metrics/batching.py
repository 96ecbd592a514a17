"""Prepared frames, piece by piece -> clips in batches -> the features of whole videos."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.metrics.features import FeatureExtractor

Outputs = dict[str, Tensor]
Windows = Sequence[Sequence[int]]

SLAB = 1024  # rows of results that are allocated together
MOST_WAITING = 2  # batches of clips that may wait for a batch without a gap


class VideoRows:
    """The rows of one video for one extractor, filled in as they come."""

    def __init__(self, outputs: Outputs, rows: int) -> None:
        self.outputs = outputs
        self.missing = rows

    def put(self, row: int, values: Mapping[str, Tensor], place: int) -> None:
        """Keep row `place` of a batch's outputs as row `row`."""
        for name, kept in self.outputs.items():
            kept[row] = values[name][place]
        self.missing -= 1


@dataclass(frozen=True)
class _Waiting:
    """One clip that has not been through the extractor."""

    video: str
    row: int
    clip: Tensor  # (F, 3, H, W) uint8


class Batches:
    """One extractor, given clips one by one.

    The last digit of a matrix product may depend on the shape of a batch and on the place in it.
    So every batch has the same number of clips, and every clip its own place: then its features do
    not depend on which others came with it, so not on the number of workers or processes, nor on
    a stop and a resume. Places for which no clip waits are filled with copies.
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
        self.places: list[deque[_Waiting]] = [deque() for _ in range(batch_size)]
        self.waiting = 0
        self.videos: dict[str, VideoRows] = {}
        self.first: dict[str, int] = {}
        # Results lie in large pieces of memory: small ones that stay would lie scattered among the
        # frames that go, and keep the memory of those from being used again.
        self.slab: Outputs = {}
        self.slab_rows = self.free = 0

    def begin(self, video: str, first: int, rows: int) -> None:
        """Expect `rows` clips of a video, of which the first is number `first` of the set."""
        if self.free + rows > self.slab_rows:
            self.slab_rows, self.free = max(SLAB, rows), 0
            widths = self.extractor.outputs.items()
            self.slab = {name: torch.zeros(self.slab_rows, width) for name, width in widths}
        place = slice(self.free, self.free + rows)
        self.videos[video] = VideoRows({key: all_[place] for key, all_ in self.slab.items()}, rows)
        self.free += rows
        self.first[video] = first

    def add(self, video: str, row: int, clip: Tensor) -> None:
        """Clip number `row` of a video, (F, 3, H, W) uint8."""
        place = (self.first[video] + row) % self.batch_size
        self.places[place].append(_Waiting(video, row, clip))
        self.waiting += 1
        if self.waiting >= MOST_WAITING * self.batch_size or all(self.places):
            self._run()

    def flush(self) -> None:
        """Put all clips that wait through the extractor."""
        while self.waiting:
            self._run()

    def _run(self) -> None:
        batch = [queue.popleft() if queue else None for queue in self.places]
        present = [each for each in batch if each is not None]
        self.waiting -= len(present)
        clips = torch.stack([(each or present[0]).clip for each in batch])
        values = self._features(clips, [each.video if each else None for each in batch])
        for place, each in enumerate(batch):
            if each is None:
                continue
            rows = self.videos[each.video]
            rows.put(each.row, values, place)
            if not rows.missing:
                del self.videos[each.video], self.first[each.video]
                self.finished(each.video, rows.outputs)

    def _features(self, clips: Tensor, videos: Sequence[str | None]) -> Outputs:
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
            bad = (~output.isfinite()).any(dim=1).nonzero().flatten().tolist()
            named = [videos[place] for place in bad if videos[place] is not None]
            if named:
                raise ValueError(
                    f"{named[0]}: its {key} by {name} are not finite; the weights of "
                    f"{name} may be damaged"
                )
        return values


class Assembly:
    """The frames of one video on their way into clips; holds no more of them than are needed."""

    def __init__(self, video: str, wanted: Sequence[tuple[Batches, Windows]]) -> None:
        """Inputs: for each extractor, which expects them, the windows, ordered by their start."""
        self.video = video
        self.wanted = wanted
        self.due = [0] * len(wanted)  # the next window of each extractor
        self.held: dict[int, Tensor] = {}
        self.uses = Counter(k for _, windows in wanted for window in windows for k in window)

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
