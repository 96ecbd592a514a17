"""Who this process is: device, rank, precision. The launcher says so in the environment."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from configs.schema import Precision

# Rank 0 alone makes previews and writes checkpoints while the others wait, perhaps for long.
LONGEST_WAIT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Runtime:
    """One process of a run. Without a launcher it is the only one, of rank 0."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    bf16: bool = False  # losses run under bfloat16 autocast; weights stay float32

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are other processes to agree with (perhaps a group of one)."""
        return dist.is_available() and dist.is_initialized()

    def autocast(self) -> AbstractContextManager[None]:
        """Where losses and samplers run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.is_distributed:
            dist.barrier(device_ids=[self.device.index] if self.device.index is not None else None)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Means of scalars over the processes; all must hold the same names."""
        if not values:
            return {}
        names = sorted(values)
        stacked = torch.stack([values[name].detach().double() for name in names])
        if self.is_distributed:
            dist.all_reduce(stacked)
            stacked /= self.world_size
        return dict(zip(names, stacked.tolist(), strict=True))

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes, in place."""
        if self.is_distributed:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor /= self.world_size

    def check_equal(self, value: int, message: str) -> None:
        """Raise ValueError(message) on every process unless all hold the same number."""
        if not self.is_distributed:
            return
        ends = torch.tensor([value, -value], device=self.device)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
        if int(ends[0]) != -int(ends[1]):
            raise ValueError(message)


@contextlib.contextmanager
def start_runtime(precision: Precision = "auto") -> Iterator[Runtime]:
    """Join the processes that torchrun started, on the GPU of this process or on the CPU.

    Raises ValueError when there are fewer GPUs than processes on this machine.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(local_rank)
    launched = "WORLD_SIZE" in os.environ
    if launched:
        backend = "nccl" if device.type == "cuda" else "gloo"
        own = device if device.type == "cuda" else None
        dist.init_process_group(backend, timeout=LONGEST_WAIT, device_id=own)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where products stay in float32
    runtime = Runtime(
        device=device,
        rank=dist.get_rank() if launched else 0,
        world_size=dist.get_world_size() if launched else 1,
        bf16=_use_bf16(precision, device),
    )
    yield runtime
    # Not after an error: the others may be inside a collective, and leaving it would wait for
    # them, while the launcher ends them as soon as this process has failed.
    if launched:
        runtime.barrier()  # the main process may still be writing
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no GPU, there are "
            f"{torch.cuda.device_count()}; start at most one process per GPU (--nproc_per_node)"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _use_bf16(precision: Precision, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"
