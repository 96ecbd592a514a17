"""From frames to cameras: which way is taken, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.simulator import SimulatedClip, simulate_clip
from tools.reconstruction.cameras import search as module
from tools.reconstruction.cameras.colmap import ColmapError, Matches, Model
from tools.reconstruction.cameras.files import read_cameras, write_cameras
from tools.reconstruction.cameras.masks import automatic_masks
from tools.reconstruction.cameras.pinhole import Cameras, align, camera_matrix, renumbered
from tools.reconstruction.cameras.search import CameraOptions, find_cameras
from tools.simulate import write_truth

FRAMES, SIZE, SEEN, POINTS = 10, 32, 256, 150


def clip() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (FRAMES, SIZE, SIZE, 3), generator=generator).to(torch.uint8)


class FakeColmap:
    """Answers as told, and counts what it was asked."""

    motion = 0.1
    pairs = 20
    scenes = 1
    models: dict[str, Model | None] = {}  # noqa: RUF012  # replaced by each test
    error: str | None = None
    asked: list[str] = []  # noqa: RUF012

    def __init__(self, *_: object, **options: object) -> None:
        FakeColmap.asked = []
        FakeColmap.options = options

    def match(self) -> Matches:
        if self.error is not None:
            raise ColmapError(self.error)
        here = np.full((self.pairs * 30, 2), 50.0)
        there = here + np.array([self.motion * SEEN, 0.0])
        return Matches(
            pairs=np.array(self.matched_pairs(), np.int64).reshape(-1, 2),
            sizes=np.full(self.pairs, 30),
            kinds=np.array(["CALIBRATED"] * self.pairs),
            places=np.concatenate([here, there], 1).astype(np.float32),
            features=np.full(FRAMES, 200),
            matched=np.full(FRAMES, 180),
            height=SEEN,
            width=SEEN,
        )

    def matched_pairs(self) -> list[tuple[int, int]]:
        """Pairs of frames of the same scene, until there are as many as wanted."""
        length = FRAMES // self.scenes
        steps = [(k, k + 1) for k in range(FRAMES - 1) if k // length == (k + 1) // length]
        return [steps[k % len(steps)] for k in range(self.pairs)]

    def build(self, mapper: str) -> Model | None:
        FakeColmap.asked.append(mapper)
        return self.models.get(mapper)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeColmap]:
    monkeypatch.setattr(module, "Colmap", FakeColmap)
    defaults = {"motion": 0.1, "pairs": 20, "scenes": 1, "models": {}, "error": None}
    for name, value in defaults.items():
        monkeypatch.setattr(FakeColmap, name, value)
    return FakeColmap


def model(frames: int = FRAMES, leap: float = 0.0, mapper: str = "incremental") -> Model:
    """A camera that goes sideways past points in front of it."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(POINTS, 3, generator=generator, dtype=torch.float64) * 2 - 1
    points[:, 2] += 6
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = -0.2 * torch.arange(frames)
    poses[frames // 2 :, 0, 3] -= leap
    lens = camera_matrix(SEEN, SEEN, 90)
    cameras = Cameras(lens, poses, SEEN, SEEN, tuple(range(frames)), "colmap")
    return Model(
        cameras,
        points,
        (frames,),
        mapper,  # type: ignore[arg-type]
        torch.arange(POINTS).repeat(frames),
        torch.arange(frames).repeat_interleave(POINTS),
        torch.cat([cameras.camera(number).project(points)[0] for number in range(frames)]),
    )


def test_a_good_model_gives_cameras_for_the_frames_own_size(
    tmp_path: Path, fake: type[FakeColmap]
) -> None:
    fake.models = {"incremental": model()}
    found = find_cameras(clip(), None, CameraOptions(), tmp_path)
    assert found.verdict.outcome == "passed"
    assert found.cameras is not None
    assert (found.cameras.height, found.cameras.width) == (SIZE, SIZE)
    assert found.cameras.field_of_view == pytest.approx(90)
    assert found.points.positions.shape == found.points.colours.shape == (POINTS, 3)
    assert fake.asked == ["incremental"]
    assert found.verdict.figures["motion_median"] == pytest.approx(0.1, abs=1e-6)
    assert found.verdict.figures["models"] == [FRAMES]


def test_points_have_the_colour_of_the_frames_there(tmp_path: Path, fake: type[FakeColmap]) -> None:
    fake.models = {"incremental": model()}
    halves = torch.zeros(FRAMES, SIZE, SIZE, 3, dtype=torch.uint8)
    halves[:, : SIZE // 2] = torch.tensor([255, 0, 51], dtype=torch.uint8)
    points = find_cameras(halves, None, CameraOptions(), tmp_path).points
    above = points.positions[:, 1] < -0.2
    assert torch.allclose(points.colours[above], torch.tensor([1.0, 0, 0.2]))
    assert float(points.colours[points.positions[:, 1] > 0.2].max()) == 0


def test_the_second_mapper_is_asked_when_the_first_is_refused(
    tmp_path: Path, fake: type[FakeColmap]
) -> None:
    fake.models = {"incremental": few_points(model()), "global": model(mapper="global")}
    found = find_cameras(clip(), None, CameraOptions(), tmp_path)
    assert fake.asked == ["incremental", "global"]
    assert found.verdict.figures["mapper"] == "global"
    assert found.verdict.outcome == "passed"


@pytest.mark.parametrize("first", [None, 5, FRAMES])
def test_the_second_mapper_is_believed_only_where_the_first_found_the_same_path(
    tmp_path: Path, fake: type[FakeColmap], first: int | None
) -> None:
    fake.models = {"global": model(mapper="global")}
    if first is not None:
        fake.models["incremental"] = few_points(model(first, leap=2.0))
    found = find_cameras(clip(), None, CameraOptions(), tmp_path)
    assert found.verdict.outcome == "refused"
    assert "two mappers" in found.verdict.text or "99 points" in found.verdict.text


def few_points(made: Model) -> Model:
    """The same model with a point too few."""
    kept = made.observed_point < 99
    return replace(
        made,
        points=made.points[:99],
        observed_point=made.observed_point[kept],
        observed_frame=made.observed_frame[kept],
        observed_at=made.observed_at[kept],
    )


def test_a_refusal_gives_figures_and_ways_out(tmp_path: Path, fake: type[FakeColmap]) -> None:
    fake.models = {"incremental": model(5), "global": model(leap=50.0, mapper="global")}
    found = find_cameras(clip(), None, CameraOptions(), tmp_path)
    assert found.cameras is None
    assert found.verdict.outcome == "refused"
    assert "one step of the camera" in found.verdict.text
    assert "--poses FILE" in found.verdict.text
    assert found.verdict.figures["frames"] == FRAMES


def test_a_refusal_with_depth_is_a_fixed_camera(tmp_path: Path, fake: type[FakeColmap]) -> None:
    found = find_cameras(clip(), None, CameraOptions(depth=True), tmp_path)
    assert found.verdict.kind == "fixed"
    assert found.verdict.outcome == "refused"
    assert found.cameras is not None
    assert len(found.cameras) == FRAMES
    assert "COLMAP placed 0 of 10 frames (needs 8)" in found.verdict.text
    # who asks for COLMAP does not get something else
    wanted = find_cameras(clip(), None, CameraOptions("colmap", depth=True), tmp_path)
    assert wanted.cameras is None


def test_without_a_judge_the_largest_model_is_kept(tmp_path: Path, fake: type[FakeColmap]) -> None:
    fake.models = {"incremental": model(5)}
    found = find_cameras(clip(), None, CameraOptions(judge=False), tmp_path)
    assert found.cameras is not None
    assert len(found.cameras) == 5
    assert "COLMAP placed 5 of 10 frames" in found.verdict.reasons[0]


def test_a_view_that_stands_still_is_no_case_for_colmap(
    tmp_path: Path, fake: type[FakeColmap]
) -> None:
    fake.motion, fake.models = 0.008, {"incremental": model()}
    found = find_cameras(clip(), None, CameraOptions(depth=True), tmp_path)
    assert fake.asked == []
    assert (found.verdict.kind, found.verdict.outcome) == ("fixed", "still")
    assert find_cameras(clip(), None, CameraOptions(), tmp_path).cameras is None
    # asked for by name, COLMAP is tried all the same, and says what it found
    assert find_cameras(clip(), None, CameraOptions("colmap"), tmp_path).cameras is not None


def test_without_matches_no_mapper_is_asked(tmp_path: Path, fake: type[FakeColmap]) -> None:
    fake.pairs = 0
    found = find_cameras(clip(), None, CameraOptions(), tmp_path)
    assert fake.asked == []
    assert "no verified pair of frames, 200 features" in found.verdict.text


@pytest.mark.parametrize(("pairs", "scenes"), [(0, 1), (2, 1), (20, 2), (20, 5)])
@pytest.mark.parametrize("motion", [0.008, 0.1])
def test_unrelated_frames_are_no_still_camera_either(
    tmp_path: Path, fake: type[FakeColmap], pairs: int, scenes: int, motion: float
) -> None:
    fake.pairs, fake.scenes, fake.motion = pairs, scenes, motion
    found = find_cameras(clip(), None, CameraOptions(depth=True), tmp_path)
    assert found.cameras is None
    assert "enough in common to be of one scene (8 of 10 needed)" in found.verdict.text
    assert "frames closer in time" in found.verdict.text
    whoever_insists = find_cameras(clip(), None, CameraOptions("fixed"), tmp_path)
    assert whoever_insists.cameras is not None


def test_what_helps_depends_on_what_was_seen(tmp_path: Path, fake: type[FakeColmap]) -> None:
    lost = find_cameras(clip(), None, CameraOptions(), tmp_path).verdict.text
    fake.motion = 0.008
    still = find_cameras(clip(), None, CameraOptions(), tmp_path).verdict.text
    assert "--depth shading" in still
    assert "shading" not in lost
    assert "--judge off" in lost
    assert "--judge off" not in still


def test_a_crash_of_colmap_is_a_refusal(tmp_path: Path, fake: type[FakeColmap]) -> None:
    fake.error = "COLMAP (match) was ended by SIGABRT: terminate called"
    found = find_cameras(clip(), None, CameraOptions(), tmp_path)
    assert found.cameras is None
    assert found.verdict.reasons == (fake.error,)


def test_what_is_known_of_the_lens_reaches_colmap(tmp_path: Path, fake: type[FakeColmap]) -> None:
    options = CameraOptions(field_of_view=70, view_known=True, seed=3, time_limit=5, threads=2)
    find_cameras(clip(), None, options, tmp_path)
    assert fake.options == {
        "field_of_view": 70,
        "view_known": True,
        "seed": 3,
        "threads": 2,
        "time_limit": 5,
    }


def test_fixed_cameras_need_no_search(tmp_path: Path) -> None:
    found = find_cameras(clip(), None, CameraOptions("fixed", field_of_view=75), tmp_path)
    assert found.cameras is not None
    assert found.cameras.field_of_view == pytest.approx(75)
    assert not any(tmp_path.iterdir())


def test_what_is_no_clip_is_refused_in_one_line(tmp_path: Path) -> None:
    for frames, masks, said in [
        (clip()[:2], None, "2 frames are too few"),
        (clip().permute(0, 3, 1, 2), None, "must be uint8 of shape"),
        (clip().float(), None, "must be uint8 of shape"),
        (clip(), torch.ones(FRAMES, SIZE, 8, dtype=torch.bool), "masks of shape"),
    ]:
        with pytest.raises(ValueError, match=said):
            find_cameras(frames, masks, CameraOptions(), tmp_path)


# ---------------------------------------------------------------- with COLMAP itself


def search(video: Tensor, folder: Path, **options: object) -> module.Found:
    pytest.importorskip("pycolmap")
    chosen = CameraOptions(threads=1, **options)  # type: ignore[arg-type]
    return find_cameras(video, automatic_masks(video), chosen, folder)


def truth_of(made: SimulatedClip, folder: Path, chosen: range) -> Cameras:
    write_truth(folder / "truth.npz", made)
    size = made.video.shape[1]
    whole = read_cameras(folder / "truth.npz", len(made.video), size, size)
    return renumbered(whole, list(chosen))


@pytest.mark.slow
def test_a_camera_that_travels_is_found_again_and_equally(tmp_path: Path) -> None:
    made = simulate_clip(1, style="col", frames=48, size=128, deformation=0.0)
    chosen = range(0, 48, 3)
    video = torch.from_numpy(made.video[list(chosen)])
    truth = truth_of(made, tmp_path, chosen)
    found = search(video, tmp_path / "one")
    assert found.verdict.outcome == "passed", found.verdict
    assert found.cameras is not None
    assert len(found.cameras) >= 14
    assert abs(found.cameras.field_of_view - truth.field_of_view) < 5
    path = float((truth.centres[1:] - truth.centres[:-1]).norm(dim=1).sum())
    assert align(found.cameras, truth).rmse < 0.03 * path
    assert len(found.points.positions) >= 100
    write_cameras(tmp_path / "cameras.json", found.cameras)
    again = search(video, tmp_path / "two")
    assert again.cameras is not None
    assert torch.equal(again.cameras.world_to_camera, found.cameras.world_to_camera)


@pytest.mark.slow
def test_one_frame_repeated_stands_still(tmp_path: Path) -> None:
    made = simulate_clip(0, style="cho", frames=1, size=128)
    generator = torch.Generator().manual_seed(0)
    noise = 3 * torch.randn(12, 128, 128, 3, generator=generator)
    video = (torch.from_numpy(made.video).float() + noise).round().clamp(0, 255).to(torch.uint8)
    found = search(video, tmp_path, depth=True)
    assert (found.verdict.kind, found.verdict.outcome) == ("fixed", "still")
    assert found.verdict.figures["motion_median"] < 0.01


@pytest.mark.slow
def test_a_camera_that_only_turns_is_not_believed(tmp_path: Path) -> None:
    found = search(turning(), tmp_path)
    assert found.verdict.outcome == "refused", found.verdict


@pytest.mark.slow
def test_frames_without_texture_are_refused(tmp_path: Path) -> None:
    grey = torch.full((10, 64, 64, 3), 120, dtype=torch.uint8)
    found = search(grey, tmp_path)
    assert found.cameras is None
    assert "no verified pair of frames, 0 features" in found.verdict.text


def turning(count: int = 16, size: int = 128) -> Tensor:
    """A camera that turns in place before one picture: frames follow from homographies."""
    made = simulate_clip(0, style="cho", frames=1, size=384, deformation=0.0)
    picture = torch.from_numpy(made.video[0]).permute(2, 0, 1)[None].float()
    half = 192 / float(made.intrinsics[0, 0])  # tangent of half the picture's angle
    places = (torch.arange(size) + 0.5) / size * 2 - 1
    down, right = torch.meshgrid(places * half / 2, places * half / 2, indexing="ij")
    rays = torch.stack([right, down, torch.ones_like(right)], -1)
    frames = []
    for number in range(count):
        yaw = torch.tensor(0.5 * half * (2 * number / (count - 1) - 1))
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        x = cos * rays[..., 0] + sin * rays[..., 2]
        z = cos * rays[..., 2] - sin * rays[..., 0]
        grid = torch.stack([x / z, rays[..., 1] / z], -1) / half
        seen = torch.nn.functional.grid_sample(picture, grid[None], align_corners=False)
        frames.append(seen[0].permute(1, 2, 0))
    return torch.stack(frames).round().clamp(0, 255).to(torch.uint8)
