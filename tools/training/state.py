"""Everything that training changes: networks, averages, optimizers and the step."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from configs.schema import TrainConfig
from models.interface import Batch, Loss, Method, Phase
from tools.training.compiling import compile_regions, wants_compiling
from tools.training.ema import Ema
from tools.training.gradients import guarded_step
from tools.training.rates import base_rates, set_rates, warmup_factor
from tools.training.readback import Readback
from tools.training.runtime import Runtime
from tools.training.sharding import check_sharding, gathered, part_like, shard, whole

# Newer releases of torch have another name for the option and warn about the old one.
_KNOWN = inspect.signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers": False
}


@dataclass(frozen=True)
class _Step:
    """An optimizer step whose gradient norm is still to be looked at."""

    number: int
    phase: Phase
    batches: Sequence[Batch]
    norm: Readback

    def check(self) -> None:
        """Raise FloatingPointError when the norm was not finite."""
        norm = self.norm.read()
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"step {self.number}: the gradient norm of {self.phase.network!r}"
                f"{_loss_name(self.phase)} is {norm.item()}; {_cause(self.batches)}, then run the "
                f"same command again: it goes on from the last checkpoint"
            )


class TrainState:
    """The networks in training and how one optimizer step is taken.

    networks    plain, as methods and checkpoints know them
    parallel    the same objects wrapped for several processes, where there are several
    averages    one per decay of train.ema_decays
    step        training steps done
    clips       clips seen by all processes
    """

    def __init__(self, method: Method, settings: TrainConfig, runtime: Runtime) -> None:
        self._method = method
        self.settings = settings
        self.runtime = runtime
        self.step = 0
        self.clips = 0
        self.clips_per_step = settings.batch_size * settings.accumulation * runtime.world_size
        self.is_sharded = settings.sharding == "full"
        self.networks: dict[str, nn.Module] = {
            name: network.to(runtime.device).train()
            for name, network in method.build_networks().items()
        }
        averaged = {name: self.networks[name] for name in method.sampled or self.networks}
        self.averages = [
            Ema(averaged, decay, warmup=settings.ema_warmup, rampup=settings.ema_rampup)
            for decay in settings.ema_decays
        ]
        if self.is_sharded:
            check_sharding(settings, self.networks, runtime.is_distributed)
            for networks in (self.networks, *(average.networks for average in self.averages)):
                for network in networks.values():
                    shard(network, runtime)
        # Such as running statistics, which each process measures on its own data.
        self.measured = [
            buffer
            for network in self.networks.values()
            for name, buffer in network.named_buffers()
            if buffer.is_floating_point() and name in network.state_dict()
        ]
        self.trainable = {
            name: [p for p in network.parameters() if p.requires_grad]
            for name, network in self.networks.items()
        }
        self.optimizers = {
            name: method.build_optimizer(network, settings)
            for name, network in self.networks.items()
        }
        self.rates = {name: base_rates(optimizer) for name, optimizer in self.optimizers.items()}
        if wants_compiling(settings.compile, runtime.device):
            for network in self.networks.values():
                compile_regions(network, sharded=self.is_sharded)
        self.parallel = {name: self._wrap(network) for name, network in self.networks.items()}
        self._unchecked: list[_Step] = []

    def take(self, phase: Phase, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One optimizer step of one network, from the mean gradient of the batches.

        Output:  detached scalars to log: the loss and its parts, the gradient norm before clipping
        Raises:  FloatingPointError, when the norm is not finite; no weight has changed by then.
                 On a GPU it comes a step later, for the norm is not waited for; see `settle`
        """
        optimizer = self.optimizers[phase.network]
        self._freeze_all_but(phase.network)
        optimizer.zero_grad(set_to_none=True)
        measured: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self._exchange_gradients(phase.network, now=last):
                loss = self._loss(phase, batch)
                (loss.total / len(batches)).backward()
            for name, part in _named_parts(phase, loss).items():
                share = part.float() / len(batches)
                measured[name] = measured[name] + share if name in measured else share
        self.settle()  # the device is busy meanwhile
        gradients = [p.grad for p in self.trainable[phase.network] if p.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients)).detach()
        factor = warmup_factor(self.step, self.settings.warmup_steps)
        set_rates(optimizer, self.rates[phase.network], factor)
        clips = self.step >= self.settings.clip_from_step
        limit = self.settings.clip_norm if clips else 0.0
        guarded_step(optimizer, self.trainable[phase.network], norm, limit)
        self._unchecked.append(_Step(self.step, phase, batches, Readback(norm)))
        if self.runtime.device.type == "cpu":
            self.settle()
        return {**measured, f"gradient_norm/{phase.title}": norm}

    def settle(self) -> None:
        """Raise what `take` has not raised yet: the FloatingPointError of an earlier step."""
        steps, self._unchecked = self._unchecked, []
        for step in steps:
            step.check()

    def end_step(self) -> Mapping[str, Tensor]:
        """Make measured buffers equal on all processes, let the method change what it controls
        and the averages follow, count the step. Output: scalars to log."""
        self.agree()
        with torch.no_grad():
            measured = self._method.end_step(self.networks, self.step, self.clips_per_step)
        for average in self.averages:
            average.update(self.networks, self.step)
        self.step += 1
        self.clips += self.clips_per_step
        return measured

    def agree(self) -> None:
        """Make measured buffers equal on all processes."""
        self.runtime.average_(self.measured)

    def learning_rates(self) -> dict[str, float]:
        """The rate of each network's first parameter group in its latest step."""
        return {
            name: float(optimizer.param_groups[0]["lr"])
            for name, optimizer in self.optimizers.items()
        }

    def start_from(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over weights by network and parameter name; the averages start from them too."""
        load_networks(self.networks, weights)
        for average in self.averages:
            average.reset(self.networks)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors from which `load` goes on exactly. Raises as `settle`.

        Of sharded networks all processes must ask; the main one gets the tensors.
        """
        self.settle()
        state = {
            "step": self.step,
            "clips": self.clips,
            "networks": {name: dict(net.state_dict()) for name, net in self.networks.items()},
            "ema": [average.state() for average in self.averages],
            "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()},
        }
        return gathered(state, keep=self.runtime.is_main) if self.is_sharded else state

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`. Settings of the optimizers are those of now, not the saved ones.

        Raises ValueError when networks, shapes or averages do not match.
        """
        load_networks(self.networks, state["networks"])
        for average, saved in zip(self.averages, state["ema"], strict=True):
            load_networks(average.networks, saved)
        for name, optimizer in self.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            moments = _detached_from_file(state["optimizers"][name]["state"])
            if self.is_sharded:
                moments = _in_parts(moments, optimizer)
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = int(state["step"])
        # Checkpoints from before clips were counted: as if the batches had always been these.
        self.clips = int(state.get("clips", self.step * self.clips_per_step))

    def _loss(self, phase: Phase, batch: Batch) -> Loss:
        # Only the moving network is wrapped: the others are frozen here, and a wrapped network
        # that receives no gradients makes the next step fail.
        view = {**self.networks, phase.network: self.parallel[phase.network]}
        with self.runtime.autocast():
            return phase.loss(view, batch)

    def _freeze_all_but(self, moving: str) -> None:
        if len(self.networks) == 1:
            return
        for name, parameters in self.trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(name == moving)

    def _exchange_gradients(
        self, name: str, *, now: bool
    ) -> contextlib.AbstractContextManager[Any]:
        network = self.parallel[name]
        if self.is_sharded:
            cast(Any, network).set_requires_gradient_sync(now)
        if now or not isinstance(network, DistributedDataParallel):
            return contextlib.nullcontext()
        return network.no_sync()

    def _wrap(self, network: nn.Module) -> nn.Module:
        if not self.runtime.is_distributed or self.is_sharded:
            return network
        index = self.runtime.device.index
        return DistributedDataParallel(
            network,
            device_ids=None if index is None else [index],
            # A phase may call its network several times before it goes backward; copying buffers
            # in between would change what the first call remembered.
            **_NO_BUFFERS,
            gradient_as_bucket_view=True,
        )


def load_networks(
    networks: Mapping[str, nn.Module], weights: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Copy weights into networks, strictly: the same networks, names and shapes.

    Raises ValueError in one line that names what differs.
    """
    if networks.keys() != weights.keys():
        raise ValueError(
            f"the weights are of the networks {sorted(weights)}, wanted are {sorted(networks)}"
        )
    for name, network in networks.items():
        difference = _difference(network.state_dict(), weights[name])
        if difference:
            raise ValueError(f"network {name!r} differs: {difference}")
        own = network.state_dict()
        placed = {key: part_like(value, own[key]) for key, value in weights[name].items()}
        network.load_state_dict(placed, strict=True)


def _in_parts(
    moments: Mapping[int, Mapping[str, Tensor]], optimizer: Optimizer
) -> dict[int, dict[str, Tensor]]:
    """What a process keeps of the moments, which lie as their parameters do."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        index: {
            key: part_like(value, parameters[index]) if value.ndim else value
            for key, value in each.items()
        }
        for index, each in moments.items()
    }


def _difference(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted]
    shapes = [
        f"{key} is {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    found = [
        *[f"{_few(missing)} missing" for _ in missing[:1]],
        *[f"{_few(unknown)} unknown" for _ in unknown[:1]],
        *[_few(shapes) for _ in shapes[:1]],
    ]
    return "; ".join(found)


def _few(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _named_parts(phase: Phase, loss: Loss) -> dict[str, Tensor]:
    return {f"loss/{phase.title}": loss.total.detach(), **loss.parts}


def _loss_name(phase: Phase) -> str:
    name = getattr(phase.loss, "__name__", "<lambda>")
    return "" if name.startswith("<") else f" in phase {name!r}"


def _cause(batches: Sequence[Batch]) -> str:
    if all(bool(torch.isfinite(batch.frames).all()) for batch in batches):
        return "lower train.learning_rate or train.clip_norm, or set train.precision=fp32"
    return "the data hold values that are no numbers: check the files of data.folder"


def _detached_from_file(value: Any) -> Any:
    """The same nested values with tensors of their own, for those read may lie in a mapped file."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _detached_from_file(item) for key, item in value.items()}
    return value
