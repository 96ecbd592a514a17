"""The fit learns a scene and its motion, repeats itself exactly, and goes on where it stopped."""

from __future__ import annotations

import copy
import io
import math
from functools import cache

import pytest
import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Cameras, camera_matrix
from tools.reconstruction.splatting import losses
from tools.reconstruction.splatting.deformation import DeformationSettings
from tools.reconstruction.splatting.fit import Fit
from tools.reconstruction.splatting.fit_settings import FitSettings
from tools.reconstruction.splatting.gaussians import Gaussians, colour_to_harmonic
from tools.reconstruction.splatting.growth import GrowthSettings
from tools.reconstruction.splatting.initial_points import initial_points
from tools.reconstruction.splatting.rasterise import rasterise

SIZE, FRAMES = 24, 8
HELD_OUT = 3
SMALL_FIELD = DeformationSettings(8, (1,), 8, 8, 16)


def settings(**choices: object) -> FitSettings:
    plain: dict[str, object] = {
        "scene": "rigid",
        "rigid_steps": 60,
        "dynamic_steps": 40,
        "degree": 0,
        "deformation": SMALL_FIELD,
    }
    made = FitSettings(**{**plain, **choices})  # type: ignore[arg-type]
    made.rates.positions = 2e-3
    return made


@cache
def wall(moving: bool) -> tuple[Tensor, Tensor, Cameras, Tensor]:
    """Frames, depth, cameras and times of a bumpy, patterned wall of 700 Gaussians."""
    torch.manual_seed(0)
    line = torch.linspace(-1.8, 1.8, 27)
    y, x = torch.meshgrid(line, line, indexing="ij")
    z = 2.5 + 0.4 * torch.sin(2 * x) * torch.cos(2 * y)
    colours = torch.stack(
        [0.6 + 0.3 * torch.sin(5 * x), 0.4 + 0.3 * torch.cos(4 * y + x), 0.3 + 0 * x], -1
    )
    places = torch.stack([x, y, z], -1).reshape(-1, 3)
    scene = Gaussians(
        places,
        torch.full((len(places), 3), math.log(0.11)),
        torch.tensor([1.0, 0, 0, 0]).repeat(len(places), 1),
        torch.full((len(places),), 4.0),
        colour_to_harmonic(colours.reshape(-1, 1, 3)),
    )
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    times = torch.linspace(-1, 1, FRAMES)
    if not moving:
        angles = torch.linspace(0, 2 * math.pi, FRAMES + 1)[:-1]
        poses[:, 0, 3], poses[:, 1, 3] = 0.3 * torch.cos(angles), 0.3 * torch.sin(angles)
    cameras = Cameras(
        camera_matrix(SIZE, SIZE, 70), poses, SIZE, SIZE, tuple(range(FRAMES)), "given"
    )
    frames, depths = [], []
    for index in range(FRAMES):
        shift = torch.tensor([0.2, 0.0, 0.0]) * times[index] * moving
        moved = Gaussians(scene.positions + shift, *list(vars(scene).values())[1:])
        render = rasterise(moved, cameras.camera(index))
        frames.append(render.colour)
        depths.append(render.depth)
    return torch.stack(frames), torch.stack(depths), cameras, times


def start(moving: bool = False, seed: int = 0, **choices: object) -> Fit:
    frames, depth, cameras, times = wall(moving)
    torch.manual_seed(1)
    rough = depth * (1 + 0.1 * torch.randn_like(depth))  # the start is wrong by a tenth
    train = [index for index in range(FRAMES) if index != HELD_OUT]
    points = initial_points(cameras, frames, None, rough, limit=300, train=train)
    chosen = settings(**choices)
    return Fit(frames, None, cameras, times, depth, points, chosen, seed, train=train)


def quality(fit: Fit, index: int = HELD_OUT) -> tuple[float, float]:
    """PSNR and mean relative depth error of a frame."""
    render = fit.render(fit.cameras.camera(index), fit.times[index])
    everywhere = torch.ones(SIZE, SIZE, dtype=torch.bool)
    value = losses.psnr(render.colour, fit.frames[index], everywhere)
    assert fit.depth is not None
    off = (render.depth - fit.depth[index]).abs() / fit.depth[index]
    return float(value), float(off.mean())


def run(fit: Fit, steps: int | None = None) -> Fit:
    while not fit.done and (steps is None or fit.steps_done < steps):
        fit.step()
    return fit


def tensors(state: object) -> list[Tensor]:
    """All tensors of a nested state, in order."""
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state
    if not isinstance(state, (dict, list, tuple)):
        return []
    return [tensor for value in values for tensor in tensors(value)]


def test_an_unseen_view_and_its_depth_get_better() -> None:
    fit = start()
    before = quality(fit)
    run(fit)
    after = quality(fit)
    assert after[0] >= before[0] + 2
    assert after[1] < before[1]
    assert fit.scene == "rigid"


def test_two_fits_with_one_seed_are_equal_and_another_seed_differs() -> None:
    first, second, third = (run(start(seed=seed), 12).state() for seed in (0, 0, 1))
    assert all(map(torch.equal, tensors(first), tensors(second)))
    assert not all(map(torch.equal, tensors(first), tensors(third)))


@pytest.mark.parametrize("stop", [7, 13, 21])
def test_a_stopped_fit_goes_on_exactly_in_either_stage_and_after_growth(stop: int) -> None:
    choices = {
        "scene": "dynamic",
        "rigid_steps": 12,
        "dynamic_steps": 14,
        "growth": GrowthSettings(begin=2, every=5, end=1.0, gradient=1e-5, limit=400),
    }
    whole = start(**choices)
    file = io.BytesIO()
    while not whole.done:
        if whole.steps_done == stop:
            torch.save(whole.state(), file)
        whole.step()
    file.seek(0)
    resumed = start(**choices)
    resumed.load(torch.load(file, weights_only=True))
    assert resumed.steps_done == stop
    run(resumed)
    assert len(whole.gaussians()) > 300
    expected, found = tensors(whole.state()), tensors(resumed.state())
    assert len(expected) == len(found)
    assert all(map(torch.equal, found, expected))


def test_a_state_of_another_fit_is_refused() -> None:
    state = copy.deepcopy(run(start(), 1).state())
    with pytest.raises(ValueError, match="another seed"):
        start(seed=5).load(state)


def test_motion_is_learned_in_the_second_stage() -> None:
    fit = run(start(moving=True, scene="dynamic", dynamic_steps=80), 60)
    still = [quality(fit, index)[0] for index in (0, 4, 7)]
    run(fit)
    moving = [quality(fit, index)[0] for index in (0, 4, 7)]
    assert fit.steps_done == 140
    assert sum(moving) / 3 > sum(still) / 3 + 3
    far = (fit.gaussians(1.0).positions - fit.gaussians(-1.0).positions).mean(0)
    assert float(far[0]) > 0.1  # to the right, as the wall does


def test_the_second_stage_begins_where_the_first_ended() -> None:
    fit = run(start(scene="dynamic", rigid_steps=5), 5)
    before = fit.gaussians()
    fit._begin_dynamic()
    after = fit.gaussians(0.7)
    assert all(map(torch.equal, vars(before).values(), vars(after).values()))


def test_auto_decides_by_what_a_rigid_scene_leaves() -> None:
    low = run(start(scene="auto", rigid_steps=3, dynamic_steps=1, rigid_enough=99.0))
    assert (low.scene, low.steps_total) == ("dynamic", 4)
    high = run(start(scene="auto", rigid_steps=3, dynamic_steps=1, rigid_enough=1.0))
    assert (high.scene, high.steps_total) == ("rigid", 3)
    assert start(moving=True, scene="auto").scene == "dynamic"  # one camera for all frames


def test_masked_pixels_and_held_out_frames_do_not_matter() -> None:
    states = []
    for hidden in (0.0, 0.9):
        fit = start()
        fit.masks[:, :5] = False
        fit.frames = fit.frames.clone()
        fit.frames[:, :5] = hidden
        fit.frames[HELD_OUT] = hidden
        states.append(run(fit, 5).state())
    assert all(map(torch.equal, tensors(states[0]), tensors(states[1])))


def test_depth_without_a_unit_is_compared_by_its_pattern() -> None:
    frames, depth, cameras, times = wall(False)
    points = initial_points(cameras, frames, None, depth, limit=100)
    runs = []
    for scale in (1.0, 7.0):
        fit = Fit(
            frames,
            None,
            cameras,
            times,
            scale * depth,
            points,
            settings(),
            depth_is_metric=False,
        )
        runs.append(fit.step())
    assert runs[0]["depth"] == pytest.approx(runs[1]["depth"], abs=1e-4)
    assert runs[0]["colour"] == pytest.approx(runs[1]["colour"], abs=1e-6)


def test_parts_that_do_not_belong_together_are_named() -> None:
    frames, depth, cameras, times = wall(False)
    points = initial_points(cameras, frames, None, depth, limit=50)
    with pytest.raises(ValueError, match="7 cameras"):
        Fit(frames, None, cameras.chosen(range(7)), times, depth, points, settings())
    with pytest.raises(ValueError, match="cameras for 12x12"):
        Fit(frames, None, cameras.resized(12, 12), times, depth, points, settings())
    with pytest.raises(ValueError, match="between -1 and 1"):
        Fit(frames, None, cameras, times * 2, depth, points, settings())
    empty = torch.zeros(frames.shape[:3])
    with pytest.raises(ValueError, match="no pixel"):
        Fit(frames, empty, cameras, times, depth, points, settings())
    with pytest.raises(ValueError, match="rigid_steps"):
        settings(rigid_steps=0)
