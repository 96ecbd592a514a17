"""Fitting Gaussians to a clip with known cameras, in two stages: rigid, then deforming in time.

The recipe is that of EndoGaussian (Liu et al. 2024, arXiv 2401.12561) with the changes that a
clip without a stereo camera asks for: rates follow the extent of the scene, the deformation
begins at zero, depth is compared inverted, and the number of steps is a setting.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Camera, Cameras
from tools.reconstruction.splatting import losses
from tools.reconstruction.splatting.deformation import Deformation
from tools.reconstruction.splatting.fit_settings import FitSettings, Scene
from tools.reconstruction.splatting.gaussians import Gaussians
from tools.reconstruction.splatting.growth import Cloud, Growth
from tools.reconstruction.splatting.initial_points import Points, gaussians_from_points
from tools.reconstruction.splatting.rasterise import Render, rasterise


class Fit:
    """A scene on its way from initial points to a clip; call `step` until `done`.

    Args:
        frames: (F, H, W, 3) uint8, or float from 0 to 1.
        masks: (F, H, W) True where a pixel counts; None for everywhere.
        cameras: one pose per frame, in the order of the frames, at the size of the frames.
        times: (F,) from -1 to 1.
        depth: (F, H, W) z in the unit of the cameras, 0 where unknown; None for none.
        points: where the Gaussians begin.
        settings: how long and how strongly.
        seed: of all that is drawn.
        train: indices of the frames to fit; None for all. The others are never looked at.
        depth_is_metric: whether depth is in the unit of the cameras; else only its pattern counts.
        device: where to compute.

    Raises:
        ValueError: parts that do not belong together.
    """

    def __init__(
        self,
        frames: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        times: Tensor,
        depth: Tensor | None,
        points: Points,
        settings: FitSettings,
        seed: int = 0,
        *,
        train: Sequence[int] | None = None,
        depth_is_metric: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.seed, self.cameras = settings, seed, cameras
        self.train = tuple(range(len(frames))) if train is None else tuple(train)
        self.device, self.depth_is_metric = torch.device(device), depth_is_metric
        masks = torch.ones(frames.shape[:3], dtype=torch.bool) if masks is None else masks.bool()
        _check(frames, masks, cameras, times, depth, self.train)
        self.times = [float(time) for time in times]
        self.frames, self.masks = frames.to(self.device), masks.to(self.device)
        self.depth = None if depth is None else depth.float().to(self.device)
        self.median_depth = _median_depth(self.depth, self.masks, points, cameras, self.train)
        spread = (cameras.centres - cameras.centres.mean(0)).norm(dim=1).max()
        self.extent = max(1.1 * float(spread), 0.1 * self.median_depth)
        still = bool((cameras.world_to_camera - cameras.world_to_camera[0]).abs().max() < 1e-9)
        self.unseen = ~self.masks[list(self.train)].any(0) if still else None

        self.steps_done = 0
        self._scene: Scene = settings.scene
        if settings.scene == "auto" and still:
            self._scene = "dynamic"
        start = gaussians_from_points(points, settings.degree).to(self.device)
        self.cloud = Cloud(start, self._rates(0.0))
        self.growth = Growth(settings.growth, self.extent, len(start), self.device)
        self.deformation: Deformation | None = None
        self.field_optimiser: torch.optim.Adam | None = None

    @property
    def steps_total(self) -> int:
        """Steps of the whole fit; falls when `auto` decides for a rigid scene."""
        rigid = self._scene == "rigid"
        return self.settings.rigid_steps + (0 if rigid else self.settings.dynamic_steps)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.steps_done >= self.steps_total

    @property
    def scene(self) -> Scene:
        """`rigid` or `dynamic`; `auto` before that is decided."""
        return self._scene

    def step(self) -> dict[str, float]:
        """One step; its losses by name (`loss`, `colour`, `depth` ...) and `gaussians`.

        Raises:
            ValueError: the fit is done, or no Gaussian is left.
        """
        if self.done:
            raise ValueError(f"the fit is done after {self.steps_done} steps")
        if self.steps_done == self.settings.rigid_steps:
            self._begin_dynamic()
        stage_step, stage_steps = self._place_in_stage()
        self._set_rates(stage_step / stage_steps)
        index = self._frame_of_step()
        scene = self.cloud.gaussians()
        if self.deformation is not None:
            scene = self.deformation(scene, self.times[index])
        render = rasterise(
            scene,
            self.cameras.camera(index),
            backend=self.settings.backend,
            degree=self.steps_done // self.settings.degree_every,
        )
        parts = self._losses(render, index)
        total = torch.stack([weight * value for weight, value in parts.values()]).sum()
        self._optimise(total)
        self._grow(render, stage_step + 1, stage_steps)
        self.steps_done += 1
        if self.steps_done == self.settings.rigid_steps and self._scene == "auto":
            self._decide()
        values = {name: float(value.detach()) for name, (_, value) in parts.items()}
        return {"loss": float(total.detach()), **values, "gaussians": float(len(self.cloud))}

    def _losses(self, render: Render, index: int) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each loss by name."""
        weights = self.settings.weights
        target, mask = self._target(index), self.masks[index]
        parts = {
            "colour": (1 - weights.structure, losses.colour_error(render.colour, target, mask))
        }
        if weights.structure:
            value = losses.structure_error(render.colour, target, mask)
            parts["structure"] = (weights.structure, value)
        if self.depth is not None and self.depth_is_metric and weights.depth:
            value = losses.inverse_depth_error(
                render.depth, self.depth[index], mask, self.median_depth
            )
            parts["depth"] = (weights.depth, value)
        elif self.depth is not None and not self.depth_is_metric and weights.pattern:
            value = losses.pattern_error(render.depth, self.depth[index], mask)
            parts["depth"] = (weights.pattern, value)
        if self.unseen is not None and weights.variation and bool(self.unseen.any()):
            picture = torch.cat([render.colour, render.depth[..., None] / self.median_depth], -1)
            value = losses.total_variation(picture, self.unseen)
            parts["variation"] = (weights.variation, value)
        if self.deformation is not None and weights.roughness:
            parts["roughness"] = (weights.roughness, self.deformation.roughness())
        return parts

    def _optimise(self, total: Tensor) -> None:
        optimisers = [self.cloud.optimiser]
        if self.field_optimiser is not None:
            optimisers.append(self.field_optimiser)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        for optimiser in optimisers:
            optimiser.step()

    def _grow(self, render: Render, step: int, steps: int) -> None:
        """Gather statistics after step `step` (from 1) of a stage, and act on them when due."""
        self.growth.record(render)
        if self.growth.due(step, steps):
            self.growth.change(self.cloud, self._draw("growth"))
        every = self.settings.growth.reset_every
        if every and step % every == 0 and step <= self.settings.growth.end * steps:
            self.cloud.reset_opacity(2 * self.settings.growth.transparent)

    def _decide(self) -> None:
        """At the end of the rigid stage: is there something left that only motion explains?"""
        values = []
        for index in self.train:
            colour = self.render(self.cameras.camera(index)).colour
            values.append(losses.psnr(colour, self._target(index), self.masks[index]))
        enough = float(torch.stack(values).mean()) >= self.settings.rigid_enough
        self._scene = "rigid" if enough else "dynamic"

    def _begin_dynamic(self) -> None:
        """The second stage: a field of motion, and optimisers without a past."""
        scene = self.gaussians()
        self.deformation = Deformation(
            self.settings.deformation,
            scene.positions.amin(0).cpu(),
            scene.positions.amax(0).cpu(),
            self.extent,
            self._draw("deformation"),
        ).to(self.device)
        rates = self.settings.rates
        planes = list(self.deformation.planes.parameters())
        known = {id(plane) for plane in planes}
        rest = [p for p in self.deformation.parameters() if id(p) not in known]
        self.field_optimiser = torch.optim.Adam(
            [{"params": planes, "lr": rates.planes}, {"params": rest, "lr": rates.network}],
            eps=1e-15,
        )
        self.cloud = Cloud(scene, self._rates(0.0))
        self.growth = Growth(self.settings.growth, self.extent, len(scene), self.device)

    def _rates(self, progress: float) -> dict[str, float]:
        """Learning rates of the Gaussians at a share of the stage."""
        rates = self.settings.rates
        return {
            "positions": _falling(rates.positions, rates.positions_end, progress) * self.extent,
            "log_scales": rates.log_scales,
            "rotations": rates.rotations,
            "opacity_logits": rates.opacity_logits,
            "base": rates.base,
            "detail": rates.detail,
        }

    def _set_rates(self, progress: float) -> None:
        rates = self.settings.rates
        self.cloud.set_rate("positions", self._rates(progress)["positions"])
        if self.field_optimiser is not None:
            planes, network = self.field_optimiser.param_groups
            planes["lr"] = _falling(rates.planes, rates.planes_end, progress)
            network["lr"] = _falling(rates.network, rates.network_end, progress)

    def _place_in_stage(self) -> tuple[int, int]:
        """Steps done in the present stage, and its length."""
        rigid = self.settings.rigid_steps
        if self.steps_done < rigid:
            return self.steps_done, rigid
        return self.steps_done - rigid, self.settings.dynamic_steps

    def _frame_of_step(self) -> int:
        """The training frames in a new random order each time through."""
        turn, place = divmod(self.steps_done, len(self.train))
        order = torch.randperm(len(self.train), generator=self._draw(f"order {turn}"))
        return self.train[int(order[place])]

    def _draw(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose at this step, whatever was drawn before."""
        step = "" if purpose.startswith("order") else self.steps_done
        digest = hashlib.blake2b(f"{self.seed}/{purpose}/{step}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def _target(self, index: int) -> Tensor:
        frame = self.frames[index]
        return frame.float() / 255 if frame.dtype == torch.uint8 else frame.float()

    def _identity(self) -> dict[str, Any]:
        """What a state must share with the fit that loads it."""
        return {
            "seed": self.seed,
            "shape": list(self.frames.shape),
            "train": list(self.train),
            "steps": [self.settings.rigid_steps, self.settings.dynamic_steps],
            "degree": self.settings.degree,
        }

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the fit depends on: tensors and plain values."""
        state: dict[str, Any] = {
            "identity": self._identity(),
            "steps_done": self.steps_done,
            "scene": self._scene,
            "cloud": self.cloud.state(),
            "growth": self.growth.state(),
        }
        if self.deformation is not None and self.field_optimiser is not None:
            weights = {k: v.detach().clone() for k, v in self.deformation.state_dict().items()}
            state["deformation"] = weights
            state["field_optimiser"] = copy.deepcopy(self.field_optimiser.state_dict())
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state; what follows is bit for bit what would have followed.

        Raises:
            ValueError: the state is of another fit.
        """
        ours, theirs = self._identity(), dict(state["identity"])
        other = [name for name in ours if ours[name] != theirs.get(name)]
        if other:
            name = other[0]
            raise ValueError(
                f"the saved fit has another {name} ({theirs.get(name)}) than this one "
                f"({ours[name]}); start anew in an empty folder"
            )
        if "deformation" in state:
            self._begin_dynamic()
            assert self.deformation is not None
            assert self.field_optimiser is not None
            self.deformation.load_state_dict(state["deformation"])
            self.field_optimiser.load_state_dict(copy.deepcopy(state["field_optimiser"]))
        self.steps_done, self._scene = int(state["steps_done"]), state["scene"]
        self.cloud.load(state["cloud"])
        self.growth.load(state["growth"])

    @torch.no_grad()
    def gaussians(self, time: float = 0.0) -> Gaussians:
        """The scene at a time, -1 to 1, without gradients."""
        scene = self.cloud.gaussians().detached()
        return scene if self.deformation is None else self.deformation(scene, time)

    @torch.no_grad()
    def render(self, camera: Camera, time: float = 0.0) -> Render:
        """The scene at a time through a camera, without gradients."""
        degree = max(self.steps_done - 1, 0) // self.settings.degree_every
        return rasterise(self.gaussians(time), camera, backend=self.settings.backend, degree=degree)


def _falling(first: float, last: float, progress: float) -> float:
    return first * (last / first) ** progress


def _median_depth(
    depth: Tensor | None,
    masks: Tensor,
    points: Points,
    cameras: Cameras,
    train: tuple[int, ...],
) -> float:
    """Of the known depths, or else of the points as the training cameras see them."""
    if depth is not None:
        chosen = list(train)
        known = depth[chosen][(depth[chosen] > 0) & masks[chosen]]
        if len(known):
            return float(known.median())
    seen = torch.cat([cameras.camera(index).project(points.positions)[1] for index in train])
    seen = seen[seen > 0]
    if not len(seen):
        raise ValueError("no initial point lies in front of a camera: do the poses belong to them?")
    return float(seen.median())


def _check(
    frames: Tensor,
    masks: Tensor,
    cameras: Cameras,
    times: Tensor,
    depth: Tensor | None,
    train: tuple[int, ...],
) -> None:
    count, height, width = frames.shape[:3]
    if (cameras.height, cameras.width) != (height, width):
        raise ValueError(
            f"cameras for {cameras.height}x{cameras.width} pixels, frames of {height}x{width}"
        )
    if len(cameras) != count or len(times) != count or masks.shape != frames.shape[:3]:
        raise ValueError(
            f"{count} frames, but {len(cameras)} cameras, {len(times)} times and masks of shape "
            f"{tuple(masks.shape)}"
        )
    if depth is not None and depth.shape != masks.shape:
        raise ValueError(f"depth has shape {tuple(depth.shape)}, frames {tuple(masks.shape)}")
    if float(times.abs().max()) > 1 + 1e-6:
        raise ValueError("times must lie between -1 and 1")
    if not train or min(train) < 0 or max(train) >= count:
        raise ValueError(f"no frames to fit, or some that are not among the {count}")
    if not bool(masks[list(train)].any()):
        raise ValueError("the masks leave no pixel of the training frames")
