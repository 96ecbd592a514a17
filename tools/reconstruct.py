"""A video of endoscopy, real or generated, as a 3-D scene of Gaussians, where it allows one.

    python -m tools.reconstruct CLIP.mp4 --output DIR
    python -m tools.reconstruct CLIP.mp4 --output DIR --cameras fixed --depth shading
    python -m tools.reconstruct CLIP.mp4 --output DIR --poses POSES --depth DEPTH.npz
    python -m tools.reconstruct FOLDER --output DIR          every video of a folder, one by one
    python -m tools.reconstruct --simulate 3 --output DIR    a simulated clip, against its truth

Does the view travel? Then COLMAP looks for cameras and a judge says whether they can be trusted.
Does it stand still, or the judge refuse? Then one fixed camera, if a source of depth is there.
Otherwise nothing is made, and the judge's figures say why (exit status 3).

    DIR/report.html        all of it on a page
    DIR/rgb.mp4 depth.mp4 side_by_side.mp4 novel.mp4
    DIR/scene.ply          Gaussians in the common layout, for viewers
    DIR/cameras.json       poses; sparse/ the same for COLMAP
    DIR/depth/ depth.npz   depth of every frame; PNG of 16 bits with scale.json
    DIR/metrics.json       every number
To go on after a stop, run the same command again. Settings as key=value or in a --config file,
such as fit.rigid_steps=300 frames.count=24; tools/reconstruction/settings.py lists them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from configs.errors import naming, one_line, run_command
from configs.load import build, merge_sources
from datasets.parallel import only_run
from datasets.sources import Source
from datasets.video_io import write_video
from tools.reconstruction.cameras.judge import Verdict
from tools.reconstruction.frames import read_clip, scenes_in
from tools.reconstruction.results.table import lines_of, write_table
from tools.reconstruction.scene import Outcome, reconstruct
from tools.reconstruction.settings import Reconstruction
from tools.reconstruction.splatting.rasterise import choose_backend
from tools.reconstruction.truth import read_truth, simulated
from tools.simulate import write_truth
from tools.training.runtime import Runtime
from tools.training.stopping import StopRequest

REFUSED = 3  # exit status where the judge refused
STOPPED = "stopped; run the same command again to go on"

# Flag -> the setting that it is short for, and its help.
SHORT = {
    "cameras": ("cameras.source", "auto, colmap, given or fixed (default: auto)"),
    "poses": ("cameras.poses", "known cameras: COLMAP text, TUM, transforms.json, truth .npz"),
    "fov": ("cameras.field_of_view", "horizontal field of view in degrees (90)"),
    "depth": ("depth.source", "none, shading, depth maps (.npz, .npy, folder), network (.pt)"),
    "masks": ("masks", "a picture, or a folder with one a frame: white is ignored"),
    "truth": ("quality.truth", "truth to compare with: .npz of tools.simulate, or depth maps"),
    "lpips": ("quality.lpips", "weights of VGG-16 (file, cache, download); else no LPIPS"),
    "frames": ("frames.count", "how many, spread evenly; 0: all (32)"),
    "size": ("frames.size", "longer side of the fit in pixels (96 on a CPU, 640 on a GPU)"),
    "scene": ("fit.scene", "auto, rigid or dynamic (auto)"),
    "backend": ("fit.backend", "auto, torch or gsplat (auto)"),
    "simulate": ("simulate.seed", "reconstruct the simulated clip of this seed instead"),
    "device": ("device", "auto, cpu or cuda"),
    "seed": ("seed", "of all that is drawn (0)"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one scene, or one of every video of a folder."""
    given = parse(arguments)
    video, settings = read_settings(given)
    device = choose_device(settings.device)
    check_backend(settings, device)
    output: Path = given.output
    with naming(output):
        output.mkdir(parents=True, exist_ok=True)
    with only_run(output), StopRequest(Runtime(device)) as stop:
        if settings.simulate.seed is not None:
            outcome = reconstruct_simulated(settings, output, device, stop)
        else:
            sources = scenes_in(video)
            if len(sources) > 1:
                return reconstruct_all(sources, settings, output, device, stop)
            outcome = reconstruct_one(sources[0], settings, output, device, stop)
        if outcome.stopped:
            say(STOPPED)
            return stop.exit_status
    return tell(outcome, output)


def reconstruct_one(
    source: Source, settings: Reconstruction, folder: Path, device: torch.device, stop: StopRequest
) -> Outcome:
    """A scene of one video."""
    wanted = settings.frames
    clip = read_clip(source, wanted.count, wanted.start, wanted.stop, wanted.fps)
    truth = read_truth(settings.quality, clip, settings.cameras.field_of_view)
    return reconstruct(clip, truth, settings, folder, device, stop, say)


def reconstruct_simulated(
    settings: Reconstruction, folder: Path, device: torch.device, stop: StopRequest
) -> Outcome:
    """A scene of a simulated clip; the clip and its truth are written beside it."""
    clip, truth, made = simulated(settings.simulate)
    write_video(folder / "input.mp4", made.video, clip.fps)
    write_truth(folder / "truth.npz", made)
    return reconstruct(clip, truth, settings, folder, device, stop, say)


def reconstruct_all(
    sources: Sequence[Source],
    settings: Reconstruction,
    output: Path,
    device: torch.device,
    stop: StopRequest,
) -> int:
    """A scene of every video; what fails does not keep the others from theirs."""
    outcomes: list[Outcome] = []
    for number, source in enumerate(sources, start=1):
        say(f"{source.name} ({number} of {len(sources)})")
        folder = output / source.name
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            outcome = reconstruct_one(source, settings, folder, device, stop)
        except (ValueError, FileNotFoundError) as error:
            say(f"error: {one_line(error)}")
            outcome = Outcome(source.name, Verdict(False, "refused", {}, (one_line(error),)))
        if outcome.stopped:
            say(STOPPED)
            return stop.exit_status
        outcomes.append(outcome)
        write_table(output, outcomes)
    print((output / "scenes.md").read_text())
    made = sum(1 for each in outcomes if each.metrics)
    print(f"{made} of {len(outcomes)} videos became scenes; see {output / 'scenes.md'}")
    return 0 if made else REFUSED


def tell(outcome: Outcome, output: Path) -> int:
    """The last lines of the terminal, and the exit status."""
    assert outcome.verdict is not None
    if not outcome.metrics:
        print(f"refused: {outcome.verdict.text}", file=sys.stderr)
        print(f"the figures are in {output / 'report.html'}")
        return REFUSED
    print("\n".join(lines_of(outcome.metrics)))
    print(f"written to {output}; open {output / 'report.html'}")
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.reconstruct",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("items", nargs="*", metavar="VIDEO_OR_FOLDER [key=value ...]", help="what to reconstruct")
    add("--output", "--out", type=Path, required=True, help="folder of the scene")
    add("--config", type=Path, help="YAML file of settings")
    for flag, (_, text) in SHORT.items():
        add(f"--{flag}", metavar="VALUE", help=text)
    add("--steps", type=int, metavar="N", help="of the fit: half rigid, half dynamic")
    add("--judge", choices=["on", "off"], help="off keeps COLMAP's model whatever its figures")
    return parser.parse_intermixed_args(arguments)


def read_settings(given: argparse.Namespace) -> tuple[Path, Reconstruction]:
    """The video that is named, and the settings.

    Raises:  ValueError in one line, naming the setting
    """
    overrides = [each for each in given.items if re.match(r"[\w.]+=", each)]
    videos = [each for each in given.items if each not in overrides]
    for flag, (key, _) in SHORT.items():
        value = getattr(given, flag)
        if value is not None:
            overrides.append(f"{key}={value}")
    if given.poses is not None and given.cameras is None:
        overrides.append("cameras.source=given")
    if given.judge is not None:
        overrides.append(f"cameras.judge={'true' if given.judge == 'on' else 'false'}")
    if given.steps is not None:
        if given.steps < 1:
            raise ValueError(f"--steps {given.steps}: use 1 or more")
        rigid = given.steps if given.scene == "rigid" else max(1, given.steps // 2)
        overrides += [f"fit.rigid_steps={rigid}", f"fit.dynamic_steps={given.steps - rigid}"]
    settings = build(Reconstruction(), merge_sources(given.config, overrides), given.config)
    wanted = 0 if settings.simulate.seed is not None else 1
    if len(videos) != wanted:
        raise ValueError(
            f"{len(videos)} videos named ({', '.join(videos) or 'none'}); give one video or one "
            f"folder, or --simulate SEED and none"
        )
    return Path(videos[0]) if videos else Path(), settings


def choose_device(name: str) -> torch.device:
    """The device of the fit.

    Raises:  ValueError for a GPU that is not there
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: no GPU that torch can use here; use device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def check_backend(settings: Reconstruction, device: torch.device) -> None:
    """Refuse a rasteriser that cannot run here, before anything else is done.

    Raises:  ValueError in one line with the reason
    """
    if settings.fit.backend == "gsplat":
        chosen, reason = choose_backend(device)
        if chosen != "gsplat":
            raise ValueError(f"fit.backend=gsplat cannot run here: {reason}; use --backend torch")


def say(text: str) -> None:
    """A line about what goes on, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
