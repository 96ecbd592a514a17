"""Values on their way from the device, which nobody waits for until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """The value that a tensor has now, readable later without waiting for what is queued since.

    Reading a GPU tensor waits for all work queued before the reading; this one was copied to the
    CPU beside that work. On a CPU it is a plain copy.
    """

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if value.device.type == "cuda":
            self._value = torch.empty_like(value, device="cpu", pin_memory=True)
            self._value.copy_(value.detach(), non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._value = value.detach().clone()

    def read(self) -> Tensor:
        """The value, on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._value
