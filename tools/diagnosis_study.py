"""Does generated video help diagnosis? On simulated videos, everything from here on one machine.

    python -m tools.diagnosis_study --output runs/diagnosis
    python -m tools.diagnosis_study --output runs/diagnosis-gan --generated runs/demo-gan/samples

Simulates labelled videos of organs with and without a polyp, samples videos from the demo's shipped
Endora, and trains a classifier with few labels and: nothing else; the other videos of the train
list without their labels; the generated videos; noise. All rows have the same seeds, labelled
videos, start weights and steps. One more row has all labels: what those that are missing are worth.

    OUTPUT/table.md, table.csv, table.json, plot.png, report.html
    OUTPUT/data/         videos         OUTPUT/rows/NAME/seed_K/     what each row left

Words of the form key=value are settings of semi_fixmatch.py, for all rows. To go on after a stop,
run the same command again: videos and seeds that are finished are kept.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from configs.diagnosis import DiagnosisConfig, load_diagnosis
from configs.errors import naming, run_command
from datasets.labelled import NORMAL, read_labelled, unlabelled_videos
from tools.diagnosis import simulated
from tools.diagnosis.baselines import trivial_rows
from tools.diagnosis.frame_classifier import PACKAGE
from tools.diagnosis.preparation import find_videos, open_reader
from tools.diagnosis.report import findings, write_report
from tools.diagnosis.rows import read_row
from tools.diagnosis.sheet import sheet
from tools.diagnosis.study import ROOT, Job, ended_by_sigterm, run_jobs
from tools.diagnosis.summary import Summary
from tools.simulate import available_cores
from tools.training.files import whole_file

CONFIG = Path("configs/downstream/demo.yaml")
SAMPLING = Path("configs/demo/sample.yaml")
WEIGHTS = Path("configs/demo/weights/endora.safetensors")
SAMPLER = ("sampling.sampler=unipc3", "sampling.steps=12")
FRAMES, INTERVAL = 8, 3  # of the shipped Endora's clips, and of the simulated ones
FIRST_SEED = {"train": 7_000_000, "test": 7_100_000}  # of no clip that Endora learned from
RECORD = "study.json"
GENERATED, NOISE, REST, ALL = "generated", "noise", "rest", "all-labels"
NAMES = {
    "supervised": "supervised",
    REST: "+ real, unlabelled",
    GENERATED: "+ generated",
    NOISE: "+ noise",
    ALL: "all labels",
}


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    output: Path
    config: Path
    settings: tuple[str, ...]  # key=value
    train: int
    test: int
    generated: int
    samples: Path | None
    rate: float  # frames per second of the scene in generated videos
    workers: int

    @property
    def data(self) -> Path:
        """Where simulated and sampled videos go."""
        return self.output / "data"

    @property
    def pool(self) -> Path:
        """The folder of generated videos."""
        return self.samples or self.data / GENERATED

    def overrides(self, row: str, unlabelled: str, *more: str) -> list[str]:
        """Settings of a row: what the study fixes, then what the user says."""
        return [
            f"output={self.output / 'rows' / row}",
            f"unlabelled={unlabelled}",
            f"data.folder={self.data / 'labelled'}",
            "data.train_list=train.csv",
            "data.test_list=test.csv",
            f"data.unlabelled_fps={self.rate:.6g}",
            "keep_weights=false",
            "report=false",
            *self.settings,
            *more,
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, and report."""
    began = time.monotonic()
    plan = _plan(arguments)
    config = load_diagnosis(plan.config, plan.overrides("supervised", "none"))
    with ended_by_sigterm():
        _keep_record(plan, config)
        _simulate(plan, config)
        _generate(plan)
        simulated.make_noise(_pool_videos(plan), plan.data / NOISE, plan.rate)
        run_jobs(_jobs(plan, config), plan.workers, _say)
    summaries = _report(plan, config)
    print("\n" + "\n".join(findings(summaries)))
    _say(f"{plan.output / 'report.html'}, after {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def _simulate(plan: Plan, config: DiagnosisConfig) -> None:
    folder = plan.data / "labelled"
    for name, count in (("train", plan.train), ("test", plan.test)):
        recipes = simulated.plan(
            folder / name, count, FIRST_SEED[name], FRAMES, config.data.size, INTERVAL
        )
        shown = time.monotonic()
        for done, _ in enumerate(simulated.make_clips(recipes, plan.workers), start=1):
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                _say(f"simulating {name} videos: {done} made now, {count} in all")
        simulated.write_list(folder / f"{name}.csv", recipes)
        _say(f"simulated {name} videos: {count}")


def _generate(plan: Plan) -> None:
    """Sample the demo's Endora, unless there is a folder of videos."""
    if plan.samples is not None:
        return
    command = [
        *("-m", "sample.sample", "--config", str(SAMPLING), "--checkpoint", str(WEIGHTS)),
        *(f"count={plan.generated}", f"output={plan.pool.resolve()}", "formats=[mp4]", *SAMPLER),
    ]
    _say(f"sampling: {shlex.join(['python', *command])}")
    status = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    if status:
        raise ValueError(f"sampling the shipped Endora stopped with status {status}; see above")


def _pool_videos(plan: Plan) -> list[Path]:
    videos = unlabelled_videos(plan.pool)
    if len(videos) < plan.generated:
        raise ValueError(
            f"{plan.pool}: {len(videos)} videos, --videos asks for {plan.generated}; sample more, "
            "or ask for fewer"
        )
    return videos


def _jobs(plan: Plan, config: DiagnosisConfig) -> list[Job]:
    """The rows; those that take longest begin."""
    train = read_labelled(plan.data / "labelled", plan.data / "labelled" / "train.csv")
    normal = sum(video.label == NORMAL for video in train)
    every = f"data.labelled_per_class={min(normal, len(train) - normal)}"
    rows: dict[str, tuple[str, ...]] = {
        GENERATED: (str(plan.pool),),
        REST: ("rest",),
        NOISE: (str(plan.data / NOISE),),
        ALL: ("none", every),
        "supervised": ("none",),
    }
    jobs = []
    for row, (unlabelled, *more) in rows.items():
        settings = plan.overrides(row, unlabelled, *more)
        load_diagnosis(plan.config, settings)  # tells what is wrong before anything runs
        command = (str(ROOT / "semi_fixmatch.py"), "--config", str(plan.config), *settings)
        jobs.append(Job(NAMES[row], plan.output / "rows" / row, command, tuple(config.seeds)))
    return jobs


def _report(plan: Plan, config: DiagnosisConfig) -> list[Summary]:
    folder = plan.output / "rows"
    rows = [read_row(folder / row, name, config.seeds) for row, name in NAMES.items()]
    videos = find_videos(config)
    sheet_path = plan.output / "videos.png"
    pools = {
        "normal": [video.path for video in videos.train if video.label == NORMAL],
        "abnormal": [video.path for video in videos.train if video.label != NORMAL],
        "generated": unlabelled_videos(plan.pool),
        "noise": unlabelled_videos(plan.data / NOISE),
    }
    picture = sheet(list(pools.values()), config.data.size)
    with naming(sheet_path):
        Image.fromarray(picture).save(sheet_path)
    command = shlex.join(["python", "-m", "tools.diagnosis_study", *sys.argv[1:]])
    return write_report(
        plan.output,
        [*rows, *trivial_rows(config, videos, open_reader(config))],
        title="Does generated video help diagnosis? (simulated videos)",
        command=command,
        further=[
            f"Unlabelled videos: generated {len(pools['generated'])}, noise {len(pools['noise'])} "
            "(the pixels of the generated ones, shuffled), real: the train list without the "
            "labelled videos of each seed.",
            "All labels: supervised training with every label of the train list that keeps the "
            "classes even and as many steps: what the labels that the other rows lack are worth.",
            f"Simulated organs, and a network that begins with {_beginning(config)}: a test of the "
            "tools, no statement about patients.",
        ],
        pictures=[(f"What is learned from: {', '.join(pools)} (middle frames)", sheet_path)],
    )


def _beginning(config: DiagnosisConfig) -> str:
    weights = config.network.weights
    if weights is None:
        return "random weights"
    return "ImageNet's weights" if weights == PACKAGE else f"the weights of {Path(weights).name}"


def _keep_record(plan: Plan, config: DiagnosisConfig) -> None:
    """Refuse a folder with a study of other videos: its files would be taken for ours."""
    record = {
        "train": plan.train,
        "test": plan.test,
        "size": config.data.size,
        "generated": plan.generated,
        "samples": str(plan.samples.resolve()) if plan.samples else None,
    }
    path = plan.output / RECORD
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except ValueError:
            before = {}
        changed = [key for key, value in record.items() if before.get(key) != value]
        if changed:
            raise ValueError(
                f"{path}: begun with other values of {', '.join(changed)}; choose another --output"
            )
        return
    with whole_file(path) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def _say(text: str) -> None:
    print(text, flush=True)


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(
        prog="python -m tools.diagnosis_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs/diagnosis"), help="(%(default)s)")
    add("--config", type=Path, default=CONFIG, help="settings of all rows (%(default)s)")
    add("--train", type=int, default=160, help="simulated videos to learn from (%(default)s)")
    add("--test", type=int, default=100, help="simulated videos to judge by (%(default)s)")
    add("--videos", type=int, default=144, help="generated videos (%(default)s)")
    add("--generated", type=Path, metavar="FOLDER", help="generated videos that are there already")
    add(
        "--generated-fps",
        type=float,
        default=simulated.clip_rate(INTERVAL),
        help="their frames per second of the scene (%(default).3g)",
    )
    add("--workers", type=int, default=available_cores(), help="rows at a time (all cores)")
    add("settings", nargs="*", metavar="KEY=VALUE", help="of semi_fixmatch.py, as in seeds=[0,1]")
    given = parser.parse_intermixed_args(arguments)
    for name in ("train", "test", "videos", "workers"):
        if getattr(given, name) < 1:
            raise ValueError(f"--{name} {getattr(given, name)}: use 1 or more")
    if not given.generated_fps > 0:
        raise ValueError(f"--generated-fps {given.generated_fps}: use a number above 0")
    return Plan(
        output=given.output,
        config=given.config,
        settings=tuple(given.settings),
        train=given.train,
        test=given.test,
        generated=given.videos,
        samples=given.generated,
        rate=given.generated_fps,
        workers=given.workers,
    )


if __name__ == "__main__":
    run_command(main)
