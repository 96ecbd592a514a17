"""Generate many videos on several GPUs, or on several processes of a CPU.

torchrun --standalone --nproc_per_node=8 -m sample.sample_ddp --checkpoint runs/col count=3125

The set of videos does not depend on the number of processes: video k is made from seed + k. To
go on after a stop, run the command again, with the same or another number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import run_command
from sample.job import command_line, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this process's share of the job; see the text above."""
    return run(command_line(__doc__).parse_intermixed_args(arguments))


if __name__ == "__main__":
    run_command(main)
