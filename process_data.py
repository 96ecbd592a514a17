"""Turn videos into folders of frames for training.

    python process_data.py -s data/Colonoscopic -t data/Colonoscopic_frames
    data/Colonoscopic/00001.mp4  ->  data/Colonoscopic_frames/00001/000000.jpg ...

Subfolders are kept. A folder of images counts as a video too. Every frame is cut to its central
square and resized. Finished videos are skipped: to go on after a stop, run the same command
again. FRAMES_DIR/process_report.csv says what became of each video.

Exit status: 0 all videos have frames, 1 some are broken or too short, 2 nothing could be done.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from configs.errors import run_command
from datasets.catalogue import DATA_SETS
from datasets.frames import (
    FPS_REPORT,
    REPORT,
    ExtractionSettings,
    Outcome,
    extract_all,
    find_videos,
    measure_fps,
    write_report,
)

LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal


def main() -> int:
    """Read the command line and process."""
    arguments = parse()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    source, target, workers = arguments.source_dir, arguments.target_dir, arguments.num_workers
    if target is None and not arguments.compute_fps_only:
        raise ValueError("-t FRAMES_DIR: say where the frames go")
    settings = ExtractionSettings(
        arguments.target_size, arguments.force_fps, arguments.format, arguments.min_frames
    )
    sources = find_videos(source, target, arguments.video_ext)
    if arguments.compute_fps_only:
        outcomes = list(with_progress(measure_fps(sources, workers=workers), len(sources)))
        return report_fps(outcomes, target)
    begin = time.perf_counter()
    work = extract_all(sources, target, settings, workers=workers, overwrite=arguments.overwrite)
    outcomes = list(with_progress(work, len(sources)))
    return report_frames(outcomes, target, time.perf_counter() - begin)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["Data sets of the paper:", *(s.summary for s in DATA_SETS.values())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-s", "--source_dir", type=Path, required=True, metavar="DATASET_DIR", help="the videos")
    add("-t", "--target_dir", type=Path, metavar="FRAMES_DIR", help="where the frames go")
    add("--target_size", type=int, default=128, metavar="PIXELS", help="side of a frame (128)")
    add("--force_fps", type=float, metavar="FPS", help="resample by time; default: every frame")
    add("--format", choices=["jpg", "png"], default="jpg", help="jpg at quality 95, or lossless")
    add("--min_frames", type=int, default=16, help="leave out shorter videos (16)")
    add("--num_workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    add("--video_ext", nargs="+", default=[], metavar="EXT", help="as in mp4 avi; default: all")
    add("--overwrite", action="store_true", help="make finished videos anew")
    add("--compute_fps_only", action="store_true", help="only tell each video's frame rate")
    return parser.parse_args()


def with_progress(outcomes: Iterable[Outcome], total: int) -> Iterator[Outcome]:
    """Pass outcomes on; a bar on a terminal, now and then a line elsewhere."""
    begin = shown = time.monotonic()
    frames = 0
    with tqdm(total=total, unit="video", disable=not sys.stderr.isatty()) as bar:
        for done, outcome in enumerate(outcomes, start=1):
            frames += outcome.frames if outcome.status == "written" else 0
            bar.update()
            now = time.monotonic()
            if bar.disable and now - shown > LINE_EVERY:
                left = (now - begin) / done * (total - done)
                print(f"{done}/{total} videos, {frames} frames, {left:.0f} s left", flush=True)
                shown = now
            yield outcome


def report_frames(outcomes: list[Outcome], target: Path, seconds: float) -> int:
    """Say what came out; the exit status."""
    count = {status: sum(o.status == status for o in outcomes) for status in ("written", "present")}
    frames = sum(outcome.frames for outcome in outcomes if outcome.status == "written")
    rate = frames / max(seconds, 1e-9)
    print(
        f"{target}: {count['written']} videos written ({frames} frames in {seconds:.1f} s, "
        f"{rate:.0f} frames/s), {count['present']} were there already"
    )
    return report_problems(outcomes, target / REPORT)


def report_fps(outcomes: list[Outcome], target: Path | None) -> int:
    """Say the frame rates; the exit status."""
    for outcome in outcomes:
        rate = "unknown" if outcome.fps is None else f"{outcome.fps:.3f}"
        if outcome.status != "broken":
            print(f"{outcome.name}: {rate} frames/s, {outcome.frames} frames")
    rates = [outcome.fps for outcome in outcomes if outcome.fps is not None]
    if rates:
        print(
            f"{len(rates)} videos: mean {statistics.fmean(rates):.3f}, "
            f"from {min(rates):.3f} to {max(rates):.3f} frames/s"
        )
    if target is not None:
        write_report(target / FPS_REPORT, outcomes)
    return report_problems(outcomes, None if target is None else target / FPS_REPORT)


def report_problems(outcomes: list[Outcome], report: Path | None) -> int:
    """Name the videos that gave nothing; the exit status."""
    failed = [outcome for outcome in outcomes if outcome.status in ("broken", "too short")]
    for outcome in failed:
        print(f"{outcome.status}: {outcome.reason}", file=sys.stderr)
    if failed:
        where = f"; all are listed in {report}" if report else ""
        print(f"{len(failed)} of {len(outcomes)} videos gave no frames{where}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
