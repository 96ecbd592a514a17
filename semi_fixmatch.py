"""Diagnose videos from few labels: does more video without labels, such as generated, help?

One row of a comparison, all its seeds, on one device or on four GPUs:
    python semi_fixmatch.py --config configs/downstream/polypdiag.yaml unlabelled=samples/endora
    torchrun --standalone --nproc_per_node=4 semi_fixmatch.py --config ... unlabelled=samples/endora

unlabelled=none trains on the labelled videos alone, unlabelled=rest also on the rest of the train
list without its labels. algorithm=comatch is another method; compat=endora the published experiment
with its flaws. To go on after a stop, run the same command again: finished seeds are kept.

    OUTPUT/seed_K/predictions.csv, history.csv, result.json, classifier.pt, tensorboard/
    OUTPUT/table.md, table.csv, table.json, plot.png, report.html    all seeds, with trivial answers
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from configs.diagnosis import COMPAT, load_diagnosis
from configs.errors import run_command
from configs.load import to_yaml


def main(command_line: Sequence[str] | None = None) -> int:
    """Read the command line (by default that of this process), train and report."""
    parser = argparse.ArgumentParser(
        prog="semi_fixmatch.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the complete settings and stop"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in seeds=[0,1]")
    arguments = parser.parse_intermixed_args(command_line)
    config = load_diagnosis(arguments.config, arguments.overrides)
    if arguments.dry_run:
        print(to_yaml(config), end="")
        if config.compat == "endora":
            print(f"# compat=endora sets {', '.join(sorted(COMPAT))}")
        return 0
    # Here, for it takes seconds to import and a wrong setting should be told at once.
    from tools.diagnosis.training import train_row

    status = train_row(config)
    table = Path(config.output) / "table.md"
    if status == 0 and os.environ.get("RANK", "0") == "0" and table.is_file():
        print(table.read_text(), end="", flush=True)
    return status


if __name__ == "__main__":
    run_command(main)
