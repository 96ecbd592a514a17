"""Export the weights of a run as one safetensors file, for sharing or as a start of a new run.

python -m tools.export --checkpoint runs/col-endora --output endora-col.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from configs.errors import run_command
from tools.training.weights import RAW, read_weights, write_weights

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="run folder (its newest) or checkpoint"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument(
        "--ema",
        type=int,
        default=0,
        help=f"which of the run's averages; {RAW} takes the raw weights (default: %(default)s)",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.output.suffix != ".safetensors":
        raise ValueError(f"--output {arguments.output}: the name has to end in .safetensors")
    weights = read_weights(arguments.checkpoint, arguments.ema)
    write_weights(arguments.output, weights, DTYPES[arguments.dtype])
    size = arguments.output.stat().st_size / 2**20
    print(f"wrote {arguments.output}: step {weights.step}, {size:.1f} MiB")


if __name__ == "__main__":
    run_command(main)
