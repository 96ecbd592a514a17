"""Motion, figures of a model, and what the judge says about them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tools.reconstruction.cameras.colmap import Matches, Model
from tools.reconstruction.cameras.figures import (
    ModelFigures,
    measure_model,
    path_disagreement,
    point_errors,
)
from tools.reconstruction.cameras.judge import (
    Limits,
    Verdict,
    objections,
    plain_figures,
    still,
    unconfirmed,
)
from tools.reconstruction.cameras.motion import Motion, measure_motion
from tools.reconstruction.cameras.pinhole import Cameras, camera_matrix

SIZE, FRAMES, POINTS = 256, 16, 200
MOVING = Motion(0.08, 100, 120, 400.0, 16, 16)
GOOD = ModelFigures(
    frames=16, points=300, track=4.5, reprojection=0.4, view=92.0, angle=8.0, jump=1.5, travel=1.2,
    explained=0.5, behind=0,
)  # fmt: skip


def matches(shifts: list[float], count: int = 30) -> Matches:
    """Pairs whose matches move by a share of the width each."""
    rng = np.random.default_rng(0)
    places = []
    for shift in shifts:
        here = rng.uniform(20, 200, (count, 2))
        places.append(np.concatenate([here, here + np.array([shift * SIZE, 0])], 1))
    pairs = np.array([(0, number + 1) for number in range(len(shifts))])
    return Matches(
        pairs=pairs.reshape(-1, 2),
        sizes=np.full(len(shifts), count),
        kinds=np.array(["CALIBRATED"] * len(shifts)),
        places=np.concatenate(places).astype(np.float32) if places else np.zeros((0, 4), "f4"),
        features=np.full(len(shifts) + 1, 300),
        matched=np.full(len(shifts) + 1, 250),
        height=SIZE,
        width=SIZE,
    )


MATCHES = matches([0.1] * (FRAMES - 1))


def model(step: float = 0.2, noise: float = 0.0) -> Model:
    """A camera that goes sideways past points; all see all."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(POINTS, 3, generator=generator, dtype=torch.float64) * 2 - 1
    points[:, 2] += 5
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    poses[:, 0, 3] = -step * torch.arange(FRAMES)
    cameras = Cameras(
        camera_matrix(SIZE, SIZE, 90), poses, SIZE, SIZE, tuple(range(FRAMES)), "colmap"
    )
    seen = [cameras.camera(number).project(points)[0] for number in range(FRAMES)]
    at = torch.cat(seen)
    off = torch.randn(at.shape, generator=generator, dtype=torch.float64)
    return Model(
        cameras,
        points,
        (FRAMES,),
        "incremental",
        torch.arange(POINTS).repeat(FRAMES),
        torch.arange(FRAMES).repeat_interleave(POINTS),
        at + noise * off,
    )


def test_motion_is_the_median_over_pairs_of_their_medians() -> None:
    found = measure_motion(matches([0.01, 0.02, 0.05, 0.2, 0.03]))
    assert found.median == pytest.approx(0.03, abs=1e-6)
    assert (found.pairs, found.possible, found.features) == (5, 15, 300)


def test_pairs_with_few_matches_say_nothing_about_motion() -> None:
    found = measure_motion(matches([0.1] * 5, count=10))
    assert found.pairs == 0
    assert math.isnan(found.median)
    assert not found.known
    assert still(found, Limits()) is None


def test_still_views_are_told_with_their_number() -> None:
    reason = still(measure_motion(matches([0.008] * 6)), Limits())
    assert reason is not None
    assert "0.008 of the width" in reason
    assert still(measure_motion(matches([0.08] * 6)), Limits()) is None


def test_figures_of_a_model_are_those_of_its_geometry() -> None:
    figures = measure_model(model(), MATCHES)
    assert (figures.frames, figures.points, figures.behind) == (FRAMES, POINTS, 0)
    assert figures.track == FRAMES
    assert figures.reprojection < 1e-9
    assert figures.view == pytest.approx(90)
    assert figures.jump == pytest.approx(1)
    assert figures.explained == pytest.approx(POINTS / 250)
    assert figures.travel == pytest.approx(0.2 * 15 / 5, rel=0.02)
    # a baseline of 3 seen from 5 away: at most 2 atan(1.5 / 5), less from the side
    assert 20 < figures.angle < math.degrees(2 * math.atan(1.5 / 4))


def test_reprojection_is_the_mean_distance() -> None:
    noisy = model(noise=0.5)
    expected = 0.5 * math.sqrt(math.pi / 2)  # mean length of a normal vector in the plane
    assert measure_model(noisy, MATCHES).reprojection == pytest.approx(expected, rel=0.05)
    errors = point_errors(noisy)
    assert errors.shape == (POINTS,)
    assert float(errors.mean()) == pytest.approx(measure_model(noisy, MATCHES).reprojection)


def test_a_camera_that_leaps_once_is_seen() -> None:
    made = model()
    poses = made.cameras.world_to_camera.clone()
    poses[8:, 0, 3] -= 6.0
    leapt = replace(made, cameras=replace(made.cameras, world_to_camera=poses))
    assert measure_model(leapt, MATCHES).jump == pytest.approx(31)


def test_paths_are_compared_by_their_shape() -> None:
    first = model().cameras
    turned = replace(first, world_to_camera=first.world_to_camera.clone())
    turned.world_to_camera[:, :3, 3] *= 3  # another scale is the same path
    assert path_disagreement(first, turned, 8) == pytest.approx(0, abs=1e-6)
    turned.world_to_camera[8:, 1, 3] += 4
    bent = path_disagreement(first, turned, 8)
    assert bent is not None
    assert bent > 0.2
    assert unconfirmed(bent, Limits())[0].startswith("the paths of two mappers differ by")
    assert unconfirmed(0.05, Limits()) == ()
    few = first.chosen([0, 1, 2, 3])
    assert path_disagreement(few, first, 8) is None
    assert unconfirmed(None, Limits()) == ("only one of two mappers found a path",)


def test_a_model_without_points_has_figures() -> None:
    empty = replace(
        model(),
        points=torch.zeros(0, 3, dtype=torch.float64),
        observed_point=torch.zeros(0, dtype=torch.int64),
        observed_frame=torch.zeros(0, dtype=torch.int64),
        observed_at=torch.zeros(0, 2, dtype=torch.float64),
    )
    figures = measure_model(empty, MATCHES)
    assert (figures.points, figures.track) == (0, 0)
    against = " ".join(objections(figures, MOVING, 16, Limits()))
    for part in ("0 points", "see a point", "pixels off", "rays to a point"):
        assert part in against


def test_a_good_model_is_accepted() -> None:
    assert objections(GOOD, MOVING, 16, Limits()) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 12}, "COLMAP placed 12 of 16 frames (needs 13)"),
        ({"points": 99}, "99 points (needs 100)"),
        ({"track": 2.9}, "2.9 frames see a point (needs 3)"),
        ({"reprojection": 0.8}, "points lie 0.80 pixels off (at most 0.75)"),
        ({"reprojection": math.nan}, "pixels off"),
        ({"view": 10.0}, "field of view 10 degrees"),
        ({"view": 160.0}, "field of view 160 degrees"),
        ({"angle": 1.0}, "rays to a point meet at 1.0 degrees (needs 2)"),
        ({"explained": 0.04}, "the model explains 4% of the matched features (needs 15%)"),
        ({"jump": 36.0}, "one step of the camera is 36 times the usual one"),
    ],
)
def test_each_rule_alone_refuses(change: dict[str, float], said: str) -> None:
    against = objections(replace(GOOD, **change), MOVING, 16, Limits())
    assert len(against) == 1
    assert said in against[0]
    assert "100 verified pairs, median match motion 0.080 of the width" in against[0]


def test_a_known_field_of_view_is_no_objection() -> None:
    narrow = replace(GOOD, view=20.0)
    assert objections(narrow, MOVING, 16, Limits(), view_known=True) == ()


def test_few_frames_need_eight() -> None:
    against = objections(replace(GOOD, frames=7), MOVING, 7, Limits())
    assert "COLMAP placed 7 of 7 frames (needs 8)" in against[0]


def test_no_model_says_what_was_seen() -> None:
    nothing = Motion(math.nan, 0, 120, 0.0, 1, 16)
    assert objections(None, nothing, 16, Limits()) == (
        "COLMAP placed 0 of 16 frames (needs 13): no verified pair of frames, 0 features in a "
        "frame",
    )


def test_figures_for_files_hold_no_nan() -> None:
    plain = plain_figures(Motion(math.nan, 0, 120, 0.0, 1, 16), GOOD)
    assert plain["motion_median"] is None
    assert plain["motion_pairs"] == 0
    assert plain["view"] == 92.0


def test_what_a_clip_counts_as() -> None:
    assert Verdict(True, "colmap").outcome == "passed"
    assert Verdict(True, "fixed", still=True).outcome == "still"
    assert Verdict(False, "refused", still=True).outcome == "still"
    assert Verdict(True, "fixed").outcome == "refused"
    assert Verdict(False, "refused").outcome == "refused"
