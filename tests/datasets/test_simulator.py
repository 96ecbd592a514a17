"""The simulator: its truth is right geometrically, and a clip depends on its arguments alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from datasets.simulator import STYLES, SimulatedClip, simulate_clip, simulate_views
from datasets.simulator_render import meet_rod
from datasets.simulator_styles import build_setting

SIZE = 48


@cache
def rigid(style: str) -> SimulatedClip:
    """A clip of a rigid organ; the scope moves for 9 frames."""
    return simulate_clip(1, style=style, frames=9, size=SIZE, lesion=True, deformation=0.0)


def carried(clip: SimulatedClip, first: int, second: int) -> tuple[np.ndarray, ...]:
    """Pixels of one frame carried into another by depth and poses: from, to (2, N), z there."""
    rows, columns = np.nonzero(clip.mask)
    pixels = np.stack([columns, rows, np.ones_like(rows)])
    seen = np.linalg.inv(clip.intrinsics) @ pixels * clip.depth[first][rows, columns]
    change = np.linalg.inv(clip.poses[second]) @ clip.poses[first]
    moved = change[:3, :3] @ seen + change[:3, 3:]
    there = clip.intrinsics @ moved
    return pixels[:2], there[:2] / there[2], moved[2]


@pytest.mark.parametrize("style", STYLES)
def test_depth_and_poses_of_a_rigid_organ_agree_between_frames(style: str) -> None:
    clip = rigid(style)
    start, place, z = carried(clip, 0, 8)
    assert np.median(np.hypot(*(place - start))) > 0.5, "the scope should move"
    corner = np.floor(place).astype(int)
    inside = ((corner >= 0) & (corner < SIZE - 1)).all(0) & (z > 0)
    corner, part, z = corner[:, inside], (place - corner)[:, inside], z[inside]
    around = np.stack([clip.depth[8][corner[1] + i, corner[0] + j] for i in (0, 1) for j in (0, 1)])
    share = np.stack([abs(1 - i - part[1]) * abs(1 - j - part[0]) for i in (0, 1) for j in (0, 1)])
    smooth = (around.min(0) > 0) & (np.ptp(around, axis=0) < 0.12 * around.max(0))
    error = np.abs((around * share).sum(0) - z)[smooth] / z[smooth]
    assert smooth.mean() > 0.4
    assert np.median(error) < 0.002
    assert np.mean(error < 0.02) > 0.85  # the rest is hidden behind folds in the second frame


def test_texture_stays_on_the_wall() -> None:
    clip = rigid("kva")  # matt: few highlights, which move with the lamp
    start, place, _ = carried(clip, 0, 8)
    target = np.round(place).astype(int)
    inside = ((target >= 0) & (target < SIZE)).all(0)
    inside[inside] = clip.mask[target[1, inside], target[0, inside]]
    picture = clip.video.astype(float).mean(-1)
    before = picture[0][start[1, inside], start[0, inside]]
    carried_on = picture[8][target[1, inside], target[0, inside]]
    unmoved = picture[8][start[1, inside], start[0, inside]]
    assert np.corrcoef(before, carried_on)[0, 1] > 0.9
    assert np.corrcoef(before, carried_on)[0, 1] > np.corrcoef(before, unmoved)[0, 1]


def test_depth_is_the_depth_of_the_wall() -> None:
    clip = rigid("col")
    setting = build_setting(1, "col", True)
    rows, columns = np.nonzero(clip.mask)
    seen = np.linalg.inv(clip.intrinsics) @ np.stack([columns, rows, np.ones_like(rows)])
    points = clip.poses[4][:3, :3] @ (seen * clip.depth[4][rows, columns]) + clip.poses[4][:3, 3:]
    clear = setting.scene.wall(4 / 25, 0.0).clearance(torch.from_numpy(points).float())[0]
    assert float(clear.abs().median()) < 0.02  # millimetres
    assert float(clear.abs().quantile(0.99)) < 0.5


@pytest.mark.parametrize("style", STYLES)
def test_contract_of_a_clip(style: str) -> None:
    clip = rigid(style)
    assert clip.video.shape == (9, SIZE, SIZE, 3)
    assert clip.video.dtype == np.uint8
    assert clip.depth.shape == (9, SIZE, SIZE)
    assert clip.depth.dtype == np.float32
    assert clip.poses.shape == (9, 4, 4)
    assert clip.poses.dtype == clip.intrinsics.dtype == np.float64
    turn = clip.poses[:, :3, :3]
    assert np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(turn), 1)
    assert (clip.depth[:, clip.mask] > 0).all()
    assert (clip.depth[:, ~clip.mask] == 0).all()
    assert 0.5 < clip.mask.mean() <= 1
    assert (clip.style, clip.seed, clip.lesion) == (style, 1, 1)


def test_masked_corners_are_black_and_the_view_is_not() -> None:
    clip = simulate_clip(0, frames=1, size=64)
    assert clip.video[0, 0, 0].max() == clip.video[0, -1, -1].max() == 0
    red, green, blue = clip.video[0][clip.mask].mean(0)
    assert red > green > blue > 20


def test_the_lumen_is_darker_than_the_wall_nearby() -> None:
    clip = simulate_clip(0, frames=1, size=64)
    light = clip.video[0].astype(float).mean(-1)[clip.mask]
    depth = clip.depth[0][clip.mask]
    near, far = np.quantile(depth, [0.5, 0.95])
    assert light[depth > far].mean() < 0.5 * light[depth < near].mean()


def test_same_arguments_give_same_bytes_and_a_longer_clip_goes_on() -> None:
    long = simulate_clip(5, frames=4, size=32)
    short = simulate_clip(5, frames=2, size=32)
    assert np.array_equal(long.video[:2], short.video)
    assert np.array_equal(long.depth[:2], short.depth)
    assert np.array_equal(long.poses[:2], short.poses)
    assert not np.array_equal(long.video[3], long.video[0])


def test_threads_change_nothing() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = simulate_clip(5, frames=1, size=32).video
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(two, simulate_clip(5, frames=1, size=32).video)


def test_seeds_give_other_clips() -> None:
    first, second = (simulate_clip(seed, frames=1, size=32) for seed in (0, 1))
    assert np.abs(first.video.astype(int) - second.video).mean() > 5


def test_motion_and_deformation_have_their_own_switches() -> None:
    still = simulate_clip(3, frames=3, size=32, motion=0.0, deformation=0.0)
    assert np.array_equal(still.video[0], still.video[2])
    breathing = simulate_clip(3, frames=3, size=32, motion=0.0, deformation=2.0)
    assert np.array_equal(breathing.poses[0], breathing.poses[2])
    assert not np.array_equal(breathing.depth[0], breathing.depth[2])


def test_motion_is_smooth() -> None:
    setting = build_setting(2, "col", False)
    path = np.stack([setting.path.pose(k / 25, setting.scene.axis).numpy() for k in range(200)])
    steps = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
    turns = np.arccos(np.clip((path[1:, :3, 2] * path[:-1, :3, 2]).sum(1), -1, 1))
    assert steps.max() < 2.5  # millimetres in 1/25 s
    assert np.degrees(turns.max()) < 4
    assert np.abs(np.diff(steps)).max() < 0.25


def test_the_scope_stays_inside_the_organ() -> None:
    for seed in (0, 1):
        setting = build_setting(seed, "kva", seed == 1)
        for time in np.arange(0, 40, 2.3):
            place = setting.path.pose(float(time), setting.scene.axis)[:3, 3:].float()
            assert float(setting.scene.wall(float(time), 1.0).clearance(place)[0]) > 1.0


@pytest.mark.parametrize("style", STYLES)
def test_boxes_lie_on_the_lesion(style: str) -> None:
    with_lesion = rigid(style)
    without = simulate_clip(1, style=style, frames=1, size=SIZE, lesion=False, deformation=0.0)
    assert without.lesion == 0
    assert not without.lesion_boxes.any()
    x0, y0, x1, y1 = with_lesion.lesion_boxes[0].astype(int)
    assert 0 <= x0 < x1 <= SIZE
    assert 0 <= y0 < y1 <= SIZE
    changed = np.abs(with_lesion.depth[0] - without.depth[0]) > 0.5
    if style == "col":  # the same path up to the look, which a lesion draws
        assert not np.array_equal(with_lesion.poses[0], without.poses[0])
    if style == "cho":  # the same view: the nodule is what changed
        assert changed[y0:y1, x0:x1].mean() > 0.3
        changed[y0:y1, x0:x1] = False
        assert changed.mean() < 0.02


def test_about_half_of_the_seeds_bear_a_lesion() -> None:
    labels = [np.random.default_rng([seed, 0]).uniform() < 0.5 for seed in range(200)]
    assert 70 < sum(labels) < 130
    for seed in (0, 2):
        assert build_setting(seed, "col", None).lesion == labels[seed]


def test_a_rod_is_met_where_it_is() -> None:
    start, end = torch.tensor([-5.0, 0.0, 10.0]), torch.tensor([5.0, 0.0, 10.0])
    rays = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.5, 1.0], [0.58, 0.0, 1.0], [0.0, 0.0, -1.0]]).T
    met = meet_rod(start, end, 1.0, torch.zeros(3), rays)
    assert met[0] == pytest.approx(9.0)
    assert met[1] == torch.inf  # passes above
    assert 9.0 < float(met[2]) < 10.5  # the round end
    assert met[3] == torch.inf  # behind the camera


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"style": "gastro"}, "style 'gastro'.*col, kva, cho"),
        ({"size": 8}, "size 8 is too small"),
        ({"frames": 0}, "0 frames"),
        ({"seed": -1}, "seed is -1"),
        ({"deformation": -0.5}, "deformation is -0.5"),
        ({"motion": float("nan")}, "motion is nan"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        simulate_clip(**{"seed": 0, **wrong})


def test_views_from_the_path_of_a_clip_are_the_clip() -> None:
    clip = simulate_clip(3, frames=3, size=32, motion=2, deformation=0.5)
    times = [frame / 25 for frame in range(3)]
    views = simulate_views(3, clip.poses, times, size=32, deformation=0.5)
    np.testing.assert_array_equal(views.video, clip.video)
    np.testing.assert_array_equal(views.depth, clip.depth)
    nearer = clip.poses.copy()
    nearer[:, :3, 3] += 2 * clip.poses[:, :3, 2]  # 2 mm along the line of sight
    moved = simulate_views(3, nearer, times, size=32, deformation=0.5)
    middle = (slice(None), slice(12, 20), slice(12, 20))
    assert np.median(clip.depth[middle] - moved.depth[middle]) == pytest.approx(2, abs=0.3)


def test_views_need_as_many_poses_as_times() -> None:
    with pytest.raises(ValueError, match="2 times"):
        simulate_views(3, np.eye(4)[None], [0.0, 0.1], size=32)
