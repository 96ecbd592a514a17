"""Work shared out over processes, and its results brought to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tools.metrics.batching import Outputs
from tools.metrics.features import FeatureExtractor
from tools.metrics.plan import Plan
from tools.training.runtime import Runtime

Item = TypeVar("Item")


def share(items: Sequence[Item], rank: int, world_size: int) -> list[Item]:
    """The items of one process: one after the other, as many for each as can be."""
    begin, end = (len(items) * k // world_size for k in (rank, rank + 1))
    return list(items[begin:end])


def gather_values(value: Item, runtime: Runtime) -> list[Item]:
    """A small value of every process, in the order of the processes, on all of them."""
    if not runtime.is_distributed:
        return [value]
    found: list[Any] = [None] * runtime.world_size
    dist.all_gather_object(found, value)
    return found


def gather_outputs(
    found: Mapping[str, Mapping[str, Outputs]],
    plan: Plan,
    used: Sequence[str],
    extractors: Sequence[FeatureExtractor],
    runtime: Runtime,
) -> dict[str, dict[str, Outputs]]:
    """The outputs of all videos by extractor and video, from those of each process's share.

    Inputs:  used, the names that were shared out, in this order
    """
    if not runtime.is_distributed:
        return {name: dict(videos) for name, videos in found.items()}
    everywhere: dict[str, dict[str, Outputs]] = {each.name: {} for each in extractors}
    for extractor in extractors:
        windows = plan.windows[extractor.frames]
        for rank in range(runtime.world_size):
            names = [n for n in share(used, rank, runtime.world_size) if n in windows]
            if not names:
                continue
            counts = [len(windows[name]) for name in names]
            for output, width in extractor.outputs.items():
                rows = torch.empty(sum(counts), width)
                if rank == runtime.rank:
                    rows = torch.cat([found[extractor.name][name][output] for name in names])
                rows = rows.to(runtime.device)
                dist.broadcast(rows, src=rank)
                for name, part in zip(names, rows.cpu().split(counts), strict=True):
                    everywhere[extractor.name].setdefault(name, {})[output] = part
    return everywhere
