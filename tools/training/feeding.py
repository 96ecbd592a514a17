"""Bring the data of a step to the device, while it still works on the step before."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from datasets.sampling import as_floats
from models.interface import Batch
from tools.training.stopping import StopRequest


class Loader(Protocol):
    """Where micro batches come from, such as `datasets.sampling.EndlessBatches`."""

    def next_stored(self) -> dict[str, Tensor]:
        """The next one, its pixels uint8."""


class Feed:
    """The micro batches of one step after another, on the device, with float pixels.

    In every step `take()`, and `prepare()` once its work is queued. On a GPU `prepare` waits for
    the loader, and copies and converts the next step's data on a stream of its own, all while
    the device computes. On a CPU it does nothing, for there it would gain no time.
    """

    def __init__(
        self, loader: Loader, rounds: int, device: torch.device, stop: StopRequest
    ) -> None:
        self.loader = loader
        self.rounds = rounds
        self.device = device
        self.stop = stop
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: list[dict[str, Tensor]] | None = None
        self._error: Exception | None = None

    def take(self) -> list[Batch]:
        """The micro batches of the next step. Raises as the loader does."""
        if self._error is not None:
            raise self._error
        ready = self._load() if self._ready is None else self._ready
        self._ready = None
        if self._stream is not None:
            present = torch.cuda.current_stream(self.device)
            present.wait_stream(self._stream)
            for batch in ready:
                for tensor in batch.values():
                    tensor.record_stream(present)  # its memory is in use until this stream is done
        return [Batch.of(batch) for batch in ready]

    def prepare(self) -> None:
        """Begin with the next step's data; what the loader raises comes out of `take`."""
        if self._stream is None or self._ready is not None:
            return
        try:
            self._ready = self._load()
        except (ValueError, OSError) as error:
            self._error = error

    def _load(self) -> list[dict[str, Tensor]]:
        with self.stop.shielded():  # the loader may start its workers
            stored = [self.loader.next_stored() for _ in range(self.rounds)]
        with torch.cuda.stream(self._stream):  # nothing on a CPU
            return [
                as_floats({k: v.to(self.device, non_blocking=True) for k, v in batch.items()})
                for batch in stored
            ]
