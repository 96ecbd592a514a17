"""Do long videos drift, and can the seams of their windows be seen?

    python -m sample.sample --checkpoint configs/demo/weights/endora.safetensors \
        frames=128 count=8 sampling.sampler=unipc3 sampling.steps=20 output=runs/long
    python -m tools.drift --samples runs/long --real data/pretrain/frames

    SAMPLES/drift/report.txt   what the terminal shows: every statistic of the first and the last
                               window, its change, and how the frames differ at seams
    SAMPLES/drift/drift.json   the same in full, drift.csv one row for each window
    SAMPLES/drift/drift.png    the statistics over time

A statistic drifts when its change, mean over the videos, is more than three standard errors and
could be seen. Single videos wander without a common direction, as real ones do when a camera moves
on: that is the size of change. A scene that stands still keeps its difference to the first frame.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path

from configs.errors import naming, run_command
from tools.steadiness.plot import draw
from tools.steadiness.sets import LongSet, read_real, read_samples
from tools.steadiness.summary import Summary, summarise
from tools.steadiness.tables import csv_rows, plain, text

FOLDER = "drift"


def main() -> int:
    """Read the command line, measure, print and write the report."""
    given = _arguments()
    for name in ("window", "overlap", "stride", "videos"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: at least 1, got {value}")
    samples = read_samples(given.samples, given.window, given.overlap, given.videos)
    summary = _summary(samples)
    real = None
    if given.real is not None:
        real = _summary(read_real(given.real, samples, given.stride, given.videos))
    output = given.output or given.samples / FOLDER
    _write(output, summary, samples, real)
    print(text(summary, real))
    print(f"\nwritten to {output}")
    return 0


def _summary(videos: LongSet) -> Summary:
    return summarise(videos.name, videos.videos, videos.seams, videos.window)


def _write(folder: Path, summary: Summary, samples: LongSet, real: Summary | None) -> None:
    table = io.StringIO()
    csv.writer(table).writerows(csv_rows(summary))
    content = {"samples": plain(summary, real), "real": plain(real) if real else None}
    files = {
        "report.txt": (text(summary, real) + "\n").encode(),
        "drift.csv": table.getvalue().encode(),
        "drift.json": (json.dumps(content, indent=2) + "\n").encode(),
        "drift.png": draw(summary, samples.videos, real),
    }
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, bytes_ in files.items():
        with naming(folder / name):
            (folder / name).write_bytes(bytes_)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--samples", type=Path, required=True, metavar="FOLDER", help="long videos of one length"
    )
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="real videos to compare with")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: drift, in the folder of samples"
    )
    parser.add_argument("--videos", type=int, default=64, help="at most; default: %(default)s")
    parser.add_argument(
        "--window", type=int, metavar="N", help="frames of a window, if samples.json tells none"
    )
    parser.add_argument(
        "--overlap", type=int, metavar="N", help="frames that windows share, likewise"
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="frames of a real video from one to the next; default: that of the training",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
