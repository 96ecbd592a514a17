"""The whole way from clips to sampled videos, small enough for two CPU cores: `make demo`.

    python -m tools.demo
    python -m tools.demo --config configs/demo/stylegan_v.yaml

Simulates clips, preprocesses them, trains a small Endora from the shipped weights and another
one from random weights, samples both and writes runs/demo/report.html; or does so with one run
of the method that --config trains, into runs/demo-METHOD. Every stage is a command that can be
typed as it is printed. A demo that was stopped goes on with the stage it was in; a finished one
is only shown again, until code or settings change: then it starts clean.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import run_command
from configs.load import merge_sources

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("runs/demo")
CONFIGS = Path("configs/demo")
ENDORA = "endora"  # the method that the demo is about where no other is named
METHODS = {  # in titles
    "endora": "Endora",
    "stylegan_v": "StyleGAN-V",
    "mostgan_v": "MoStGAN-V",
    "lvdm": "LVDM",
    "lvdm_long": "LVDM, long videos",
}
DIFFUSION = (ENDORA, "lvdm", "lvdm_long")  # sampled with the demo's few steps
STAGE_ONE = {"lvdm": "lvdm_autoencoder.yaml", "lvdm_long": "lvdm_autoencoder.yaml"}
CLIP_FRAMES = 48  # of a simulated clip
LONG_FRAMES, LONG_VIDEOS = 128, 4
STATE_NAME = "stages.json"
MADE = (  # all that a clean start removes from the demo's folder
    *("data", "train", "samples", "scratch", "scratch_samples", "training_clips"),
    *("autoencoder", "long"),
    *("metrics", "cache"),
    *("report.html", "contact_sheet.png", "samples.gif", STATE_NAME),
)
FAMILIES = ("untrained", "efficientnet")  # features that need no download, for the scores
CODE = ("configs", "datasets", "diffusion", "models", "sample", "tools")
CODE_ENDINGS = (".py", ".yaml", ".css", ".safetensors")


@dataclass(frozen=True)
class Stage:
    """One command of the demo."""

    title: str
    command: list[str]  # without the interpreter

    def __str__(self) -> str:
        return shlex.join(["python", *self.command])


@dataclass(frozen=True)
class Plan:
    """Where the demo works and how large it is."""

    folder: Path  # all that the demo makes
    config: Path  # settings of the run
    scratch: Path | None  # settings of the run from random weights
    clips: int
    videos: int
    sampling: Path  # settings of both sampling stages
    method: str = ENDORA
    continues: bool = True  # the run starts from weights, not from random ones
    stage_one: Path | None = None  # settings of the autoencoder that the run works on
    long_frames: int = 0  # of a few longer videos at the end; 0 makes none


def stages(plan: Plan) -> list[Stage]:
    """The commands, in order."""
    clips, frames = str(plan.folder / "data" / "clips"), str(plan.folder / "data" / "frames")
    listed = f"{frames}/list.txt"
    train, samples = str(plan.folder / "train"), str(plan.folder / "samples")
    scratch, scratch_samples = str(plan.folder / "scratch"), str(plan.folder / "scratch_samples")
    report = ["-m", "tools.report", "--run", train, "--samples", samples]
    found = [
        Stage(
            "simulate clips",
            [
                *("-m", "tools.simulate", "--folder", clips, "--clips", str(plan.clips)),
                *("--frames", str(CLIP_FRAMES), "--no-truth"),
            ],
        ),
        Stage("videos to frames", ["process_data.py", "-s", clips, "-t", frames, *TARGET_SIZE]),
        Stage(
            "list the frames",
            ["process_list.py", "-f", frames, "-t", listed],
        ),
    ]
    on = []
    if plan.stage_one:
        codec = str(plan.folder / "autoencoder")
        on = [f"method.autoencoder={codec}"]
        found.append(Stage("train the video autoencoder", _train(plan, plan.stage_one, codec)))
    found += [
        Stage(f"train from {_origin(plan)} weights", [*_train(plan, plan.config, train), *on]),
        Stage("sample it", _sample(plan, train, samples)),
    ]
    if plan.scratch:
        found += [
            Stage("train from random weights", _train(plan, plan.scratch, scratch)),
            Stage("sample that", _sample(plan, scratch, scratch_samples)),
        ]
        report += ["--compare-run", scratch, "--compare-samples", scratch_samples]
    found += [
        Stage("score the samples", _score(plan, "untrained", "fvd,fid,fvd_frozen,memorisation", 4)),
        Stage("score them by image features", _score(plan, "efficientnet", "fvd,fid", 2)),
    ]
    if plan.long_frames:
        long = str(plan.folder / "long")
        longer = [*_sample(plan, train, long, LONG_VIDEOS), f"frames={plan.long_frames}"]
        found += [
            Stage(f"sample videos of {plan.long_frames} frames", longer),
            Stage("do they drift", ["-m", "tools.drift", "--samples", long, *_real(plan, frames)]),
        ]
        report += ["--long", long]
    report += ["--metrics", *(str(plan.folder / "metrics" / family) for family in FAMILIES)]
    report += ["--frames", frames, "--stages", str(plan.folder / STATE_NAME)]
    name = METHODS.get(plan.method, plan.method)
    report += ["--title", f"{name} demo", "--output", str(plan.folder / "report.html")]
    return [*found, Stage("write the report", report)]


TARGET_SIZE = ("--target_size", "64")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages that are not finished, and say where to look."""
    plan = _plan(arguments)
    todo = stages(plan)
    state = _State.open(plan, todo)
    for number, stage in enumerate(todo, start=1):
        print(f"\n[{number}/{len(todo)}] {stage.title}: {stage}", flush=True)
        if state.is_finished(stage):
            print("finished before", flush=True)
            continue
        began = time.monotonic()
        status = subprocess.run([sys.executable, *stage.command], cwd=ROOT, check=False).returncode
        if status:
            print(
                f"\nerror: the demo stopped in stage {number} of {len(todo)} ({stage.title}, "
                f"status {status}); see above; after that, the same command goes on from here",
                file=sys.stderr,
            )
            return 1
        seconds = time.monotonic() - began
        state.finish(stage, seconds)
        print(f"done in {_clock(seconds)}, {_clock(state.seconds)} in all", flush=True)
    print(f"\nlook at {plan.folder / 'report.html'} in a browser", flush=True)
    return 0


class _State:
    """stages.json: which stages are finished, with which code and settings."""

    def __init__(self, path: Path, fingerprint: str, finished: list[dict[str, Any]]) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.finished = finished

    @classmethod
    def open(cls, plan: Plan, todo: Sequence[Stage]) -> _State:
        """The state of an earlier demo of the same code and settings, or a clean start."""
        path, fingerprint = plan.folder / STATE_NAME, _fingerprint(todo)
        earlier: dict[str, Any] = {}
        if path.is_file():
            try:
                earlier = json.loads(path.read_text())
            except ValueError:
                print(f"{path} is damaged", flush=True)
        if earlier.get("fingerprint") == fingerprint:
            return cls(path, fingerprint, earlier["stages"])
        _start_clean(plan.folder)
        state = cls(path, fingerprint, [])
        state.write()
        return state

    @property
    def seconds(self) -> float:
        """The time that all finished stages took."""
        return float(sum(stage["seconds"] for stage in self.finished))

    def is_finished(self, stage: Stage) -> bool:
        """Whether the stage was finished before."""
        return any(done["command"] == str(stage) for done in self.finished)

    def finish(self, stage: Stage, seconds: float) -> None:
        """Note that the stage is finished."""
        done = {"title": stage.title, "command": str(stage), "seconds": round(seconds, 1)}
        self.finished.append(done)
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        content = {"fingerprint": self.fingerprint, "stages": self.finished}
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self.path)


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help=f"{FOLDER}, or {FOLDER}-METHOD")
    parser.add_argument("--config", type=Path, default=CONFIGS / "endora.yaml", help="%(default)s")
    parser.add_argument(
        "--scratch", type=Path, help=f"a second run; for Endora {CONFIGS}/scratch.yaml"
    )
    parser.add_argument(
        "--sampling",
        type=Path,
        help=f"for diffusion models {CONFIGS}/sample.yaml, else the method's own choices",
    )
    parser.add_argument(
        "--long-frames",
        type=int,
        metavar="N",
        help=f"frames of {LONG_VIDEOS} longer videos; 0: none; for LVDM {LONG_FRAMES}, else 0",
    )
    parser.add_argument("--no-scratch", action="store_true", help="leave the second run out")
    parser.add_argument("--clips", type=int, default=16, help="simulated clips (%(default)s)")
    parser.add_argument("--videos", type=int, default=8, help="sampled videos (%(default)s)")
    given = parser.parse_args(arguments)
    settings = merge_sources(given.config, ())
    method = str(settings.get("method_name"))
    is_endora = method == ENDORA
    scratch = given.scratch or (CONFIGS / "scratch.yaml" if is_endora else None)
    few_steps = method in DIFFUSION
    stage_one = STAGE_ONE.get(method)
    long_frames = given.long_frames
    if long_frames is None:
        long_frames = LONG_FRAMES if stage_one else 0
    return Plan(
        folder=given.folder or (FOLDER if is_endora else FOLDER.with_name(f"demo-{method}")),
        config=given.config,
        scratch=None if given.no_scratch else scratch,
        clips=given.clips,
        videos=given.videos,
        sampling=given.sampling or (CONFIGS if few_steps else Path("configs/col")) / "sample.yaml",
        method=method,
        continues=settings.get("train", {}).get("initial_weights") is not None,
        stage_one=CONFIGS / stage_one if stage_one else None,
        long_frames=long_frames,
    )


def _origin(plan: Plan) -> str:
    return "the shipped" if plan.continues else "random"


def _train(plan: Plan, config: Path, output: str) -> list[str]:
    frames = plan.folder / "data" / "frames"
    data = [f"data.folder={frames}", f"data.list={frames / 'list.txt'}"]
    return ["train.py", "--config", str(config), f"output={output}", *data]


def _sample(plan: Plan, run: str, output: str, count: int | None = None) -> list[str]:
    count = count or plan.videos
    settings = ["--config", str(plan.sampling), f"output={output}", f"count={count}"]
    return ["-m", "sample.sample", "--checkpoint", run, *settings]


def _real(plan: Plan, frames: str) -> list[str]:
    """What to measure drift against: clips that last for two windows, or nothing."""
    clip = merge_sources(plan.config, ())["clip"]
    last = 2 * clip["frames"] * clip.get("frame_interval", 1)
    return ["--real", frames] if last <= CLIP_FRAMES else []


def _score(plan: Plan, family: str, metrics: str, clips: int) -> list[str]:
    """The samples against clips of the videos they learned from, by features of no paper."""
    sets = {"continued" if plan.continues else "samples": plan.folder / "samples"}
    if plan.scratch:
        sets["scratch"] = plan.folder / "scratch_samples"
    clip = merge_sources(plan.config, ())["clip"]
    # Several clips of each video, for there are few videos; pixels at the size they have.
    changes = [f"clip_frames={clip['frames']}", f"frame_size={clip['size']}"]
    changes += [f"clips_per_real_video={clips}", "max_real_frames=128", "max_fake_frames=64"]
    return [
        *("metrics.py", "--model_path", *map(str, sets.values()), "--names", *sets),
        *("--extractor", family, "--metrics", metrics, "--set", *changes),
        *("--cache", str(plan.folder / "cache"), "--output", str(plan.folder / "metrics" / family)),
    ]


def _start_clean(folder: Path) -> None:
    """Remove what an earlier demo has made, and nothing in a folder that is of no demo."""
    found = [folder / name for name in MADE if (folder / name).exists()]
    if found and folder != FOLDER and not (folder / STATE_NAME).is_file():
        raise ValueError(f"--folder {folder}: holds a {found[0].name} that is of no demo")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fingerprint(todo: Sequence[Stage]) -> str:
    """A hash of the commands and of all code, settings and weights they may use."""
    digest = hashlib.sha256("\n".join(map(str, todo)).encode())
    files = [*ROOT.glob("*.py")]
    for folder in CODE:
        files += [file for file in (ROOT / folder).rglob("*") if file.suffix in CODE_ENDINGS]
    for file in sorted(files):
        digest.update(
            f"{file.relative_to(ROOT)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


if __name__ == "__main__":
    run_command(main)
