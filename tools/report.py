"""Write a page about a run: what it samples, what it learned from, its losses and settings.

python -m tools.report --run runs/col-endora --samples runs/col-endora/samples/step_00100000 \\
    --output runs/col-endora/report.html

The page holds its videos and pictures itself, so the one file can be moved or sent.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from configs.errors import run_command
from datasets.video_io import iterate_frames, write_video
from tools.reporting import page, scores
from tools.reporting.chart import Points, read_losses
from tools.reporting.entry import Entry, origin, read_entry
from tools.reporting.media import Frames, clips_of_frames, tiled

SHOWN = 8  # videos in a panel
FIRST, SECOND, PLAIN = "var(--first)", "var(--second)", "var(--line)"

# Columns of losses.csv with a plainer title; others are shown under their own name.
TITLES = {
    "mse": "Denoising (mse)",
    "vb": "Variational bound (vb, bits per dimension)",
    "prior": "Guidance by the image prior",
    "error": "Squared error",
    "output_real": "Discriminator's output on real clips",
    "output_generated": "Discriminator's output on generated clips",
    "sign_real": "Mean sign of the outputs on real clips",
    "augmentation": "Strength of the augmentation (ADA)",
    "r1": "Gradient penalty on real clips (R1)",
    "loss/penalty": "Gradient penalty as it counts in the steps that compute it",
}
NOT_LOSSES = ("learning_rate", "gradient_norm", "clips_per_second", "memory_gib", "kimg")
LAUNCHERS = {"endora": "torchrun --nnodes=1 --nproc_per_node=8"}
LEADS = {
    "endora": (
        "Endora learns to generate endoscopy videos: a diffusion transformer with attention "
        "in space and in time works on the latents of a frozen image autoencoder, while a "
        "frozen image model guides its features. This page shows what one run made, next to "
        "the clips it learned from."
    ),
    "stylegan_v": (
        "StyleGAN-V learns to generate videos in continuous time: a generator makes every frame "
        "from content, motion and its moment, and a discriminator, which sees whole clips, learns "
        "to tell them from real ones. This page shows what one run made, next to the clips it "
        "learned from."
    ),
    "lvdm": (
        "LVDM learns to generate videos in two stages: a video autoencoder that shrinks clips in "
        "time as well as in space, and a diffusion model of its latents. This page shows what one "
        "run of the second stage made, next to the clips it learned from."
    ),
    "lvdm_long": (
        "LVDM's networks for long videos: one predicts distant frames from those before, one fills "
        "in the frames between, both in the latents of LVDM's video autoencoder. This page shows "
        "what one run made, next to the clips it learned from."
    ),
    "mostgan_v": (
        "MoStGAN-V is StyleGAN-V with motion styles, which change the generator's filters frame "
        "by frame, and a discriminator that also sees how frames differ. This page shows what "
        "one run made, next to the clips it learned from."
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and the pictures beside it."""
    parsed = _parser().parse_args(arguments)
    output: Path = parsed.output
    entry = read_entry(parsed.run, parsed.samples)
    compared = (
        read_entry(parsed.compare_run, parsed.compare_samples) if parsed.compare_run else None
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry.samples / "contact_sheet.png", output.parent / "contact_sheet.png")
    write_gif(output.parent / "samples.gif", entry)
    stages = json.loads(parsed.stages.read_text())["stages"] if parsed.stages else []
    training = (
        write_training_clips(output.parent / "training_clips", parsed.frames, entry)
        if parsed.frames
        else []
    )
    sections = [
        _heading(parsed.title, entry, stages),
        _videos(entry, compared, training),
        _sheet(output.parent),
        scores.section(parsed.metrics),
        _longer(parsed.long) if parsed.long else "",
        _losses(entry, compared),
        _stages(stages),
        _settings(entry, compared),
        _next_steps(entry),
    ]
    output.write_text(page.page(parsed.title, sections))
    print(f"report: {output}")
    return 0


def write_gif(path: Path, entry: Entry) -> None:
    """One looping picture of the samples side by side, twice their size."""
    videos: list[Frames] = [_frames(video) for video in entry.videos(SHOWN)]
    first, *others = [Image.fromarray(frame) for frame in tiled(videos, columns=4, scale=2)]
    duration = round(1000 / entry.record["made_by"]["fps"])
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0)


def write_training_clips(folder: Path, frames: Path, entry: Entry) -> list[Path]:
    """Clips of the training data at the model's size and speed, as mp4 files."""
    clip = entry.settings["clip"]
    if not frames.is_dir():
        raise FileNotFoundError(f"{frames}: no such folder of frames; run process_data.py first")
    clips = clips_of_frames(frames, SHOWN, clip["frames"], clip["frame_interval"], clip["size"])
    if not clips:
        raise ValueError(f"{frames}: no video of enough frames; expected one folder per video")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:06d}.mp4" for index in range(len(clips))]
    for path, video in zip(paths, clips, strict=True):
        write_video(path, video, entry.record["made_by"]["fps"])
    return paths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument("--run", required=True, help="the run", **folder)  # type: ignore[arg-type]
    parser.add_argument("--samples", required=True, help="its samples", **folder)  # type: ignore[arg-type]
    parser.add_argument("--compare-run", help="a second run to show beside it", **folder)  # type: ignore[arg-type]
    parser.add_argument("--compare-samples", help="samples of the second run", **folder)  # type: ignore[arg-type]
    parser.add_argument("--frames", help="training data, one folder per video", **folder)  # type: ignore[arg-type]
    parser.add_argument(
        "--metrics",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="what metrics.py wrote",
    )
    parser.add_argument("--long", help="longer videos, after tools.drift", **folder)  # type: ignore[arg-type]
    parser.add_argument("--stages", type=Path, metavar="FILE", help="times of the demo's stages")
    parser.add_argument("--title", default="Endora: report of a run", help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.html")
    return parser


def _heading(title: str, entry: Entry, stages: Sequence[dict[str, Any]]) -> str:
    clip, versions = entry.settings["clip"], entry.record["versions"]
    lead = LEADS.get(entry.method, "What one run made, next to what it learned from.")
    facts = {
        "videos sampled": str(entry.record["count"]),
        "frames and pixels": f"{clip['frames']} of {clip['size']}x{clip['size']}",
        "training steps here": f"{entry.steps:,}",
        "method": entry.method,
        "torch": versions.get("torch", "?"),
        "device": entry.record["device"],
    }
    if stages:
        facts["time in all"] = _minutes(sum(stage["seconds"] for stage in stages))
    return page.heading(title, lead, facts)


def _videos(entry: Entry, compared: Entry | None, training: Sequence[Path]) -> str:
    contents = [_sampled(entry, FIRST)]
    if training:
        note = "What it learned from, as the model sees it: its frame size and speed."
        contents.append(page.video_panel("Training clips", note, training, PLAIN))
    if compared:
        contents.append(_sampled(compared, SECOND, wide=bool(training)))
    return page.section("Videos", "", page.panels(*contents))


def _sampled(entry: Entry, tone: str, wide: bool = False) -> str:
    scratch = entry.initial is None
    began = "training from scratch" if scratch else "continuing pre-trained weights"
    title = f"Sampled after {began}"
    return page.video_panel(title, f"{origin(entry)}.", entry.videos(SHOWN), tone, wide)


def _sheet(folder: Path) -> str:
    sheet = page.picture(folder / "contact_sheet.png", "frames of sampled videos")
    moving = page.picture(folder / "samples.gif", "sampled videos, moving")
    text = "Left: each row is one sampled video, from its first frame to its last. Right: a gif."
    return page.section("Contact sheet", text, page.panels(sheet, moving))


def _longer(folder: Path) -> str:
    """Videos longer than the training's clips, and what tools.drift found about them."""
    drift = folder / "drift"
    if not (drift / "report.txt").is_file():
        raise FileNotFoundError(
            f"{drift}/report.txt: not there; run python -m tools.drift --samples {folder} first"
        )
    frames = json.loads((folder / "samples.json").read_text())["made_by"]["frames"]
    videos = sorted(folder.glob("[0-9]*.mp4"))[:SHOWN]
    note = f"{frames} frames each, in windows that go on from the one before."
    contents = [
        page.video_panel("Longer videos", note, videos, FIRST),
        page.picture(drift / "drift.png", "statistics of the videos over time"),
    ]
    text = "Whether colour, brightness and sharpness drift, and whether seams of windows show."
    return page.section(
        "Longer than a clip",
        text,
        page.panels(*contents),
        page.folded("All statistics", page.code((drift / "report.txt").read_text())),
    )


def _losses(entry: Entry, compared: Entry | None) -> str:
    entries = [entry, compared] if compared else [entry]
    lines = {_label(each): read_losses(each.run / "losses.csv") for each in entries}
    columns: dict[str, dict[str, Points]] = {}
    for name in next(iter(lines.values())):
        if name.split("/")[0] in NOT_LOSSES:
            continue
        title = TITLES.get(
            name, f"Total loss of the {name[5:]}" if name.startswith("loss/") else name
        )
        columns[title] = {label: table[name] for label, table in lines.items() if name in table}
    text = (
        "Means over the steps since the point before, over the training step of this run. "
        "Single steps draw different random numbers, so the lines are rough."
    )
    return page.section("Losses", text, page.charts(columns))


def _stages(stages: Sequence[dict[str, Any]]) -> str:
    if not stages:
        return ""
    rows = [[stage["title"], _minutes(stage["seconds"]), stage["command"]] for stage in stages]
    text = "The commands of this demo, as they can be typed, and how long each took."
    return page.section("How it was made", text, page.table(rows, code_column=2, number_column=1))


def _settings(entry: Entry, compared: Entry | None) -> str:
    how, seeds = entry.record["made_by"], list(entry.record["videos"].values())
    rows = [
        ["Run", f"{entry.run}, seed {entry.settings['train']['seed']}"],
        ["Samples", f"{entry.samples}, seeds {seeds[0]} to {seeds[-1]}"],
        ["Sampling", ", ".join(f"{k} {v}" for k, v in how["sampling"].items()) or "no choices"],
        ["Precision", f"sampled in {how['precision']}"],
        ["Weights", f"SHA-256 {how['weights_sha256']}"],
        ["Commit", _commit(entry.environment)],
        ["Versions", ", ".join(f"{k} {v}" for k, v in entry.record["versions"].items())],
    ]
    folds = [page.folded("All settings of the run", page.code(_yaml(entry)))]
    if compared:
        folds.append(page.folded("All settings of the run beside it", page.code(_yaml(compared))))
    return page.section("Settings, seeds, versions", "", page.table(rows), *folds)


def _next_steps(entry: Entry) -> str:
    config = Path("configs/col") / f"{entry.method}.yaml"
    name = entry.method if config.is_file() else "endora"
    commands = (
        f"# more videos from this run, with other seeds\n"
        f"python -m sample.sample --checkpoint {entry.run} seed=100 count=8 output=runs/more\n\n"
        f"# the same on your own videos: frames, list, training, samples\n"
        f"python process_data.py -s data/Colonoscopic -t data/Colonoscopic_frames\n"
        f"python process_list.py -f data/Colonoscopic_frames -t data/Colonoscopic_frames/list.txt\n"
        f"{LAUNCHERS.get(name, 'python')} train.py --config configs/col/{name}.yaml\n"
        f"bash sample/col.sh runs/col-{name}\n"
    )
    text = "From the root of the repository, in its environment (source .venv/bin/activate):"
    return page.section("What to do next", text, page.code(commands))


def _label(entry: Entry) -> str:
    began = "from scratch" if entry.initial is None else "from pre-trained weights"
    return f"{began} ({entry.run.name})"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


def _commit(environment: dict[str, Any]) -> str:
    commit = environment.get("git_commit") or "not known"
    return f"{commit} with uncommitted changes" if environment.get("git_has_changes") else commit


def _yaml(entry: Entry) -> str:
    return yaml.safe_dump(entry.settings, sort_keys=False)


def _frames(path: Path) -> Frames:
    return np.stack([frame.permute(1, 2, 0).numpy() for frame in iterate_frames(path)])


if __name__ == "__main__":
    run_command(main)
