"""List the frames below a folder, one path a line, for `data.list` of a training run.

    python process_list.py -f data/Colonoscopic_frames \\
        -t data/Colonoscopic_frames/train_128_list.txt

Paths are relative to the folder of the list, sorted, numbers by value: the same frames always
give the same list.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from configs.errors import run_command
from datasets.frames import write_list


def main() -> int:
    """Read the command line and write the list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-f", "--frames_dir", type=Path, required=True, metavar="FRAMES_DIR", help="the frames")
    add("-t", "--target_list", type=Path, required=True, metavar="LIST.txt", help="the list")
    arguments = parser.parse_args()
    videos, frames = write_list(arguments.frames_dir, arguments.target_list)
    print(f"{frames} frames of {videos} videos: {arguments.target_list}")
    return 0


if __name__ == "__main__":
    run_command(main)
