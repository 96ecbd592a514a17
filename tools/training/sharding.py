"""Networks spread over all processes (FSDP2), for models beyond one card.

Every process holds its part of each parameter, gradient, moment and average; the whole of a block
is there only while that block computes. Checkpoints hold whole tensors, so that their files are
the same with and without.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn

from configs.schema import TrainConfig, require
from tools.training.runtime import Runtime


def check_sharding(settings: TrainConfig, networks: Mapping[str, nn.Module], is_run: bool) -> None:
    """Raise ValueError, in one line, for settings that sharding cannot go with.

    `is_run`: whether a launcher has started the processes
    """
    require(
        len(networks) == 1,
        f"train.sharding: full works with methods that train one network, this one trains "
        f"{', '.join(networks)}; set none",
    )
    require(
        is_run,
        "train.sharding: full spreads a model over several processes; start them with torchrun",
    )
    require(
        not settings.preview_every and not settings.metrics_every,
        "train.sharding: full has no process with the whole model, which previews and light "
        "metrics need; set train.preview_every=0 and train.metrics_every=0, or sharding none",
    )


def shard(network: nn.Module, runtime: Runtime) -> None:
    """Spread a network over all processes, in place: block by block, then what is left of it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # The network's output is a view, which nobody here changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(runtime.device.type, (runtime.world_size,))
    for module in network.modules():
        if getattr(module, "compiled_alone", False):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)


def whole(value: Tensor) -> Tensor:
    """The complete tensor. Of a part of one, all processes must ask at the same time."""
    if _is_part(value):
        return cast(Tensor, cast(Any, value).full_tensor())
    return value


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """What a process keeps of a complete tensor, to take the place of `like`."""
    if not _is_part(like) or _is_part(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    place: Any = like
    moved = value.to(like.device)
    return cast(Tensor, distribute_tensor(moved, place.device_mesh, place.placements))


def gathered(values: Any, *, keep: bool) -> Any:
    """Nested values with complete tensors on the CPU; where not `keep`, the tensors are let go.

    All processes must ask at the same time.
    """
    if isinstance(values, Tensor):
        complete = whole(values).detach()
        return complete.cpu() if keep else complete.new_empty(0)
    if isinstance(values, Mapping):
        return {key: gathered(value, keep=keep) for key, value in values.items()}
    if isinstance(values, list):
        return [gathered(value, keep=keep) for value in values]
    return values


def _is_part(value: Tensor) -> bool:
    if not dist.is_available() or type(value) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
