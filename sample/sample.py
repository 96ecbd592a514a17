"""Generate videos on one device.

A few videos:      python -m sample.sample --checkpoint runs/col-endora count=4
Fewer steps:       python -m sample.sample --checkpoint runs/col-endora sampling.steps=50
Lossless frames:   python -m sample.sample --checkpoint runs/col-endora formats=[png]

The checkpoint says which model it is. Video k is made from seed + k. To go on after a stop,
run the same command again: videos that are finished stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from configs.errors import run_command
from sample.job import command_line, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the text above."""
    parsed = command_line(__doc__).parse_intermixed_args(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("sample.sample is for one process; torchrun starts -m sample.sample_ddp")
    return run(parsed)


if __name__ == "__main__":
    run_command(main)
