"""The command: real runs on small simulated clips, and every way in which it can be refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.simulator import simulate_clip
from datasets.video_io import frame_count, write_video
from tools import reconstruct
from tools.reconstruction import preparing
from tools.reconstruction.cameras.files import read_cameras, write_colmap
from tools.reconstruction.cameras.judge import Verdict
from tools.reconstruction.cameras.pinhole import fixed_cameras
from tools.reconstruction.cameras.point_files import read_points
from tools.reconstruction.cameras.search import Found, no_points
from tools.reconstruction.splatting.scene_files import read_scene
from tools.simulate import write_truth
from tools.training.stopping import StopRequest

SMALL = ["--size", "24", "fit.rigid_steps=6", "fit.dynamic_steps=4", "fit.degree=1"]
SIMULATED = ["simulate.seed=3", "simulate.size=32", "simulate.frames=6", "simulate.motion=2"]
KNOWN = ["--cameras", "given", "--depth", "truth"]


def run(*arguments: str | Path) -> int:
    return reconstruct.main([str(each) for each in arguments])


def numbers(folder: Path) -> dict[str, object]:
    content = json.loads((folder / "metrics.json").read_text())
    return {name: v for name, v in content.items() if name not in ("seconds", "memory_mb")}


def write_clip(path: Path, pictures: np.ndarray) -> Path:
    write_video(path, pictures, 8)
    return path


def noise(frames: int = 6, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated video with its truth beside it."""
    folder = tmp_path_factory.mktemp("clip")
    made = simulate_clip(3, frames=6, size=32, motion=2)
    write_truth(folder / "truth.npz", made)
    return write_clip(folder / "clip.mp4", made.video)


def test_the_command_makes_a_scene_of_a_simulated_clip(tmp_path: Path, root: Path) -> None:
    output = tmp_path / "scene"
    command = [sys.executable, "-m", "tools.reconstruct", "--output", str(output)]
    done = subprocess.run(
        [*command, *KNOWN, *SMALL, *SIMULATED, "--scene", "dynamic"],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "unseen frames: PSNR" in done.stdout
    assert "Warning" not in done.stderr
    for name in ("rgb", "depth", "side_by_side", "novel", "novel_truth"):
        assert frame_count(output / f"{name}.mp4") == 6, name
    found = numbers(output)
    assert found["verdict"]["kind"] == "given"
    assert found["scene"] == "dynamic"
    assert found["test"]["count"] == 2
    assert found["depth_error"]["relative"] < 0.3
    assert found["novel_error"]["all"]["psnr"] > 10
    assert len(read_scene(output / "scene.ply")) == found["gaussians"]
    assert len(read_cameras(output / "cameras.json", 6, 24, 24)) == 6
    assert np.load(output / "depth.npz")["depth"].shape == (6, 24, 24)
    page = (output / "report.html").read_text()
    assert "cameras given" in page
    assert page.count("<video") == 4


class Impatient(StopRequest):
    """Is asked to stop after a few steps."""

    asked = 0

    def agreed(self) -> bool:
        Impatient.asked += 1
        return Impatient.asked == 7  # in the second stage


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*KNOWN, *SMALL, *SIMULATED, "--scene", "dynamic", "--output"]
    assert run(*arguments, tmp_path / "whole") == 0
    with monkeypatch.context() as patched:
        patched.setattr(reconstruct, "StopRequest", Impatient)
        assert run(*arguments, tmp_path / "parts") == 0
    assert not (tmp_path / "parts" / "scene.ply").exists()
    assert run(*arguments, tmp_path / "parts") == 0
    for name in ("scene.ply", "depth.npz", "rgb.mp4"):
        first, second = (tmp_path / each / name for each in ("whole", "parts"))
        assert first.read_bytes() == second.read_bytes(), name
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")


def test_a_fixed_camera_is_fitted_from_the_shading_of_a_video(clip: Path, tmp_path: Path) -> None:
    asked = ["--cameras", "fixed", "--depth", "shading", "--truth", clip.parent / "truth.npz"]
    assert run(clip, *asked, *SMALL, "--output", tmp_path) == 0
    found = numbers(tmp_path)
    assert found["verdict"]["kind"] == "fixed"
    assert found["scene"] == "dynamic", "a camera that stands still leaves all change to the tissue"
    assert found["median_depth"] == pytest.approx(1, abs=0.3)
    assert found["depth_error"]["alignment"] == "one factor for all frames"


def test_poses_and_depth_of_files_are_used(clip: Path, tmp_path: Path) -> None:
    truth = clip.parent / "truth.npz"
    known = ["--poses", truth, "--depth", truth, "--truth", truth]
    assert run(clip, *known, *SMALL, "--scene", "rigid", "--output", tmp_path) == 0
    found = numbers(tmp_path)
    assert found["verdict"]["kind"] == "given"
    assert found["pose_error"]["share_of_path"] == pytest.approx(0, abs=1e-6)
    assert found["depth_error"]["alignment"] == "scale of the cameras"


def test_points_of_the_cameras_tell_depth_and_shading_gives_way_to_them(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(clip.parent / "truth.npz") as truth:
        depth = torch.from_numpy(truth["depth"])
    cameras = read_cameras(clip.parent / "truth.npz", 6, 32, 32)
    places = cameras.camera(2).unproject(depth[2]).flatten(0, 1)[::3]
    count = len(places)
    write_colmap(tmp_path, cameras, places, torch.full((count, 3), 0.5), torch.ones(count))
    asked = ["--poses", tmp_path, "--depth", "shading", "--scene", "rigid"]
    assert run(clip, *asked, *SMALL, "--output", tmp_path / "scene") == 0
    found = numbers(tmp_path / "scene")
    assert found["depth_source"] == "points"
    assert "shading is left out" in capsys.readouterr().err


def test_a_refusal_has_its_own_status_and_a_page(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = Verdict(False, "refused", {"frames": 2}, ("COLMAP placed 2 of 6 frames",), "Try ...")
    monkeypatch.setattr(preparing, "find_cameras", lambda *_: Found(None, no_points(), verdict))
    assert run(clip, "--output", tmp_path) == reconstruct.REFUSED == 3
    assert "refused: COLMAP placed 2 of 6 frames. Try ..." in capsys.readouterr().err
    assert "COLMAP placed 2 of 6 frames" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "scene.ply").exists()


def test_one_bad_video_does_not_stop_the_others(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(clip.read_bytes())
    write_clip(folder / "b.mp4", noise(3))
    asked = ["--cameras", "fixed", "--depth", "shading", *SMALL]
    assert run(folder, *asked, "--output", tmp_path / "scenes") == 0
    assert (tmp_path / "scenes" / "a" / "scene.ply").is_file()
    table = (tmp_path / "scenes" / "scenes.md").read_text()
    assert "| b | refused |" in table
    assert "a scene needs 4" in table
    assert "1 of 2 videos became scenes" in capsys.readouterr().out


def refused(match: str, *arguments: str | Path | Sequence[str]) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


def test_clips_that_allow_no_scene_are_refused_before_any_work(tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    refused("3 frames .* needs 4", write_clip(tmp_path / "short.mp4", noise(3)), *out)
    grey = np.full((6, 32, 32, 3), 120, np.uint8)
    refused("no texture, no scene", write_clip(tmp_path / "grey.mp4", grey), *out)
    still = np.repeat(simulate_clip(1, frames=1, size=32).video, 6, axis=0)
    folder = tmp_path / "still"
    folder.mkdir()
    for index, picture in enumerate(still):
        reconstruct_image(folder / f"{index}.png", picture)
    refused("one frame, 6 times over", folder, *out)
    refused("no such video", tmp_path / "missing.mp4", *out)


def reconstruct_image(path: Path, picture: np.ndarray) -> None:
    from datasets.image_io import write_image

    write_image(path, torch.from_numpy(picture).permute(2, 0, 1))


def test_what_belongs_to_another_clip_is_refused(clip: Path, tmp_path: Path) -> None:
    truth, out = clip.parent / "truth.npz", ("--output", tmp_path / "out")
    longer = write_clip(tmp_path / "longer.mp4", noise(9))
    shorter = write_clip(tmp_path / "shorter.mp4", noise(5))
    refused("poses of 6 frames, the clip has 5", shorter, "--poses", truth, *out)
    refused("6 depth maps for a video of 9", longer, "--cameras", "fixed", "--depth", truth, *out)
    refused("no such file of poses", clip, "--poses", tmp_path / "poses.json", *out)
    refused("no such mask", clip, "--masks", tmp_path / "masks", *out)
    wide = ["--cameras", "fixed", "--depth", "elsewhere.npz"]
    refused("no such depth file", clip, *wide, "--output", tmp_path / "other")
    refused("unit", clip, "--poses", truth, "--depth", "shading", "--output", tmp_path / "third")
    refused("come without points", clip, "--poses", truth, "--output", tmp_path / "fourth")
    refused("no parallax.*--depth shading", clip, "--cameras", "fixed", *out)


def test_settings_that_cannot_work_are_refused(clip: Path, tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    refused("fit.backend=gsplat cannot run here", clip, "--backend", "gsplat", "--device=cpu", *out)
    refused("did you mean frames.size", clip, "frames.sise=3", *out)
    refused("--poses FILE", clip, "--cameras", "given", *out)
    refused("0 videos named", *out)
    refused("2 videos named", clip, clip, *out)
    refused("--steps 0", clip, "--steps", "0", *out)
    refused("frames.count", clip, "--frames", "2", *out)
    refused("quality.lpips: no file", clip, "--lpips", tmp_path / "vgg.pth", *out)


def test_a_folder_of_another_scene_is_not_overwritten(clip: Path, tmp_path: Path) -> None:
    asked = ["--cameras", "fixed", "--depth", "shading", *SMALL, "--output", tmp_path]
    assert run(clip, *asked) == 0
    refused("frames.size 24 -> 32.*another --output", clip, *asked, "--size", "32")


def test_points_of_a_colmap_model_come_with_its_poses(tmp_path: Path) -> None:
    cameras = fixed_cameras(8, 8, 4, 90)
    places = torch.rand(5, 3, dtype=torch.float64)
    write_colmap(tmp_path, cameras, places, torch.full((5, 3), 0.2), torch.ones(5))
    points = read_points(tmp_path)
    assert torch.allclose(points.positions, places, atol=1e-6)
    assert points.colours.unique().tolist() == pytest.approx([0.2])
    assert len(read_points(tmp_path / "poses.json").positions) == 0
    (tmp_path / "points3D.txt").write_text("1 2 3\n2 nothing\n")
    with pytest.raises(ValueError, match="not the points of a COLMAP model"):
        read_points(tmp_path)
