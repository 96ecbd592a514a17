"""Gaussians whose number changes while an optimiser is at work on them.

The rules are those of 3D Gaussian splatting (Kerbl et al. 2023) as gsplat runs them by default: a
Gaussian whose place on the picture is pulled about hard is doubled, in place if it is small and
into two smaller ones if it is large; a transparent one goes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tools.reconstruction.splatting.gaussians import Gaussians, rotation_matrices
from tools.reconstruction.splatting.rasterise import Render

SHRINK = 1.6  # a half of a split Gaussian is smaller by this factor


@dataclass
class GrowthSettings:
    """When and what to double and to drop."""

    begin: int = 500  # first step of a stage at which Gaussians may double
    every: int = 100  # steps
    end: float = 0.8  # share of a stage after which the number stays
    gradient: float = 2e-4  # mean length of the screen gradient, in half pictures, that doubles
    small: float = 0.01  # largest scale, in scene extents, that is doubled in place
    transparent: float = 0.005  # opacity below which a Gaussian goes
    reset_every: int = 0  # steps after which opacities start low again; 0: never
    limit: int = 10_000  # largest number of Gaussians

    def __post_init__(self) -> None:
        if self.every < 1 or self.begin < 0 or self.reset_every < 0 or self.limit < 2:
            raise ValueError("growth: every 1 or more, begin and reset_every 0 or more, limit 2")
        if not 0 <= self.end <= 1:
            raise ValueError(f"growth.end is a share of a stage from 0 to 1, got {self.end}")


class Cloud:
    """The parameters of Gaussians and their Adam optimiser, whose moments follow them.

    Args:
        gaussians: the start.
        rates: learning rate by name of the parameter; `base` is the harmonic of degree 0 and
            `detail` the rest.
    """

    def __init__(self, gaussians: Gaussians, rates: Mapping[str, float]) -> None:
        values = {
            "positions": gaussians.positions,
            "log_scales": gaussians.log_scales,
            "rotations": gaussians.rotations,
            "opacity_logits": gaussians.opacity_logits,
            "base": gaussians.harmonics[:, :1],
            "detail": gaussians.harmonics[:, 1:],
        }
        self.parameters = {
            name: nn.Parameter(value.detach().clone()) for name, value in values.items()
        }
        groups = [
            {"params": [parameter], "lr": rates[name], "name": name}
            for name, parameter in self.parameters.items()
        ]
        self.optimiser = torch.optim.Adam(groups, eps=1e-15)

    def __len__(self) -> int:
        return len(self.parameters["positions"])

    def gaussians(self) -> Gaussians:
        """The scene, with gradients."""
        p = self.parameters
        harmonics = torch.cat([p["base"], p["detail"]], 1) if p["detail"].numel() else p["base"]
        return Gaussians(
            p["positions"], p["log_scales"], p["rotations"], p["opacity_logits"], harmonics
        )

    def set_rate(self, name: str, rate: float) -> None:
        """Change the learning rate of one parameter."""
        for group in self.optimiser.param_groups:
            if group["name"] == name:
                group["lr"] = rate

    @torch.no_grad()
    def rearrange(self, source: Tensor, fresh: Tensor, changes: Mapping[str, Tensor]) -> None:
        """Make a new list of Gaussians out of the present one.

        Args:
            source: (M,) the Gaussian that each new one is a copy of.
            fresh: (M,) True where a new one has no past: its moments are zero.
            changes: new values by name where they are not copies, all M rows.
        """
        for group in self.optimiser.param_groups:
            name, (old,) = group["name"], group["params"]
            new = nn.Parameter(changes[name] if name in changes else old[source])
            state = self.optimiser.state.pop(old, None)
            if state:
                for key in ("exp_avg", "exp_avg_sq"):
                    moments = state[key][source]
                    moments[fresh] = 0
                    state[key] = moments
                self.optimiser.state[new] = state
            group["params"] = [new]
            self.parameters[name] = new

    @torch.no_grad()
    def reset_opacity(self, highest: float) -> None:
        """Lower all opacities to at most this one, and forget their moments."""
        parameter = self.parameters["opacity_logits"]
        parameter.clamp_(max=float(torch.tensor(highest).logit()))
        for key in ("exp_avg", "exp_avg_sq"):
            if key in self.optimiser.state[parameter]:
                self.optimiser.state[parameter][key].zero_()

    def state(self) -> dict[str, Any]:
        """Parameters and optimiser as tensors and plain values."""
        values = {name: value.detach().clone() for name, value in self.parameters.items()}
        return {"parameters": values, "optimiser": copy.deepcopy(self.optimiser.state_dict())}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, whatever the number of Gaussians."""
        for group in self.optimiser.param_groups:
            old = self.parameters[group["name"]]
            new = nn.Parameter(state["parameters"][group["name"]].to(old.device, copy=True))
            self.parameters[group["name"]] = new
            group["params"] = [new]
        self.optimiser.state.clear()
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))


class Growth:
    """Gathers how hard each Gaussian is pulled, and changes their number now and then."""

    def __init__(
        self, settings: GrowthSettings, extent: float, count: int, device: torch.device | str
    ) -> None:
        self.settings, self.extent = settings, extent
        self.pull = torch.zeros(count, device=device)
        self.seen = torch.zeros(count, device=device)

    @torch.no_grad()
    def record(self, render: Render) -> None:
        """Take note of a picture after the loss went backward through it."""
        if render.means2d.grad is None:
            return
        height, width = render.depth.shape
        half = torch.tensor([width / 2, height / 2]).to(render.means2d)
        visible = render.radii > 0
        self.pull += (render.means2d.grad * half).norm(dim=1) * visible
        self.seen += visible

    def due(self, step: int, steps: int) -> bool:
        """Whether the number may change after this step (from 1) of a stage of so many."""
        rules = self.settings
        return rules.begin < step <= rules.end * steps and step % rules.every == 0

    @torch.no_grad()
    def change(self, cloud: Cloud, draw: torch.Generator) -> None:
        """Double, split and drop; then begin to gather anew.

        Raises:
            ValueError: no Gaussian would be left.
        """
        pull = self.pull / self.seen.clamp(min=1)
        grown = self._most_pulled(pull, self.settings.limit - len(cloud))
        small = cloud.parameters["log_scales"].exp().amax(1) <= self.settings.small * self.extent
        double(cloud, grown & small)
        added = len(cloud) - len(grown)
        large = torch.cat([grown & ~small, grown.new_zeros(added)])
        split(cloud, large, draw)
        drop(cloud, cloud.parameters["opacity_logits"].sigmoid() < self.settings.transparent)
        self.pull = torch.zeros(len(cloud), device=self.pull.device)
        self.seen = torch.zeros_like(self.pull)

    def _most_pulled(self, pull: Tensor, room: int) -> Tensor:
        """Which are pulled hard enough; of more than there is room for, the hardest."""
        grown = pull > self.settings.gradient
        if int(grown.sum()) <= room:
            return grown
        best = torch.topk(pull, max(room, 0)).indices
        chosen = torch.zeros_like(grown)
        chosen[best] = True
        return chosen

    def state(self) -> dict[str, Tensor]:
        """What was gathered."""
        return {"pull": self.pull.clone(), "seen": self.seen.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        self.pull = state["pull"].to(self.pull.device, copy=True)
        self.seen = state["seen"].to(self.seen.device, copy=True)


def double(cloud: Cloud, which: Tensor) -> None:
    """Add a copy of each chosen Gaussian (N,) at the end."""
    everyone = torch.arange(len(cloud), device=which.device)
    source = torch.cat([everyone, everyone[which]])
    cloud.rearrange(source, _from(len(cloud), source), {})


@torch.no_grad()
def split(cloud: Cloud, which: Tensor, draw: torch.Generator) -> None:
    """Replace each chosen Gaussian (N,) by two smaller ones, drawn from it, at the end."""
    chosen = torch.nonzero(which)[:, 0]
    rest = torch.nonzero(~which)[:, 0]
    source = torch.cat([rest, chosen, chosen])
    positions = cloud.parameters["positions"][source]
    scales = cloud.parameters["log_scales"][source]
    noise = torch.randn(2, len(chosen), 3, generator=draw).to(positions)
    turns = rotation_matrices(cloud.parameters["rotations"][chosen])
    axes = turns * cloud.parameters["log_scales"][chosen].exp()[:, None]
    positions[len(rest) :] += torch.einsum("nij,bnj->bni", axes, noise).flatten(0, 1)
    scales[len(rest) :] -= torch.log(torch.tensor(SHRINK))
    changes = {"positions": positions, "log_scales": scales}
    cloud.rearrange(source, _from(len(rest), source), changes)


def drop(cloud: Cloud, which: Tensor) -> None:
    """Remove the chosen Gaussians (N,).

    Raises:
        ValueError: all are chosen.
    """
    source = torch.nonzero(~which)[:, 0]
    if not len(source):
        raise ValueError(
            f"all {len(which)} Gaussians of the scene became transparent: frames, masks or cameras "
            f"do not fit together, or the learning rates are too high"
        )
    cloud.rearrange(source, torch.zeros_like(source, dtype=torch.bool), {})


def _from(first: int, source: Tensor) -> Tensor:
    """True from this place on."""
    return torch.arange(len(source), device=source.device) >= first
