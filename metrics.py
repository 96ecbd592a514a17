"""Score generated videos against real ones: FVD, FID, IS and relatives.

The samples of a run, against the data it trained on:
    python metrics.py --model_path runs/col-endora
Several methods in one table, with one real side:
    python metrics.py --model_path samples/endora samples/lvdm --real_path data/Colonoscopic
Over the steps of one run:
    python metrics.py --model_path runs/col-endora/samples/step_*
Without any weights, to check the pipeline (no paper's numbers):
    python metrics.py --model_path samples --real_path data --extractor untrained \\
        --set real_stride=1

A set is a folder of video files, of folders of frames or of arrays (.npz with `video`, .npy).
Several GPUs: torchrun --nproc_per_node=N metrics.py ... To go on after a stop, run the same
command again: features that are finished are in the cache. Each score comes with its standard
deviation, the numbers behind it and its floor, the score of real videos against each other.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import run_command
from tools.metrics.arguments import listing, parse
from tools.metrics.catalogue import ALL, METRICS, choose_metrics

if TYPE_CHECKING:
    from tools.metrics.choices import RealSide
    from tools.metrics.sets import Generated


def main(command_line: Sequence[str] | None = None) -> int:
    """Read the command line (by default that of this process), evaluate and report."""
    arguments = parse(command_line, __doc__)
    if arguments.list:
        print(listing())
        return 0
    if not arguments.model_path:
        raise ValueError("--model_path: name at least one folder of generated videos, or a run")
    metrics = choose_metrics(arguments.metrics, arguments.extractor)
    for name in ("batch_size", "repeats"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name}: at least 1, got {getattr(arguments, name)}")
    if arguments.workers < 0:
        raise ValueError(f"--workers: 0 or more, got {arguments.workers}")
    return run(arguments, metrics)


def run(arguments: argparse.Namespace, metrics: list[str]) -> int:
    """Evaluate on the processes that there are; the main one writes and prints."""
    from dataclasses import replace

    from tools.metrics.choices import Choices
    from tools.metrics.evaluate import evaluate
    from tools.metrics.protocol import load_protocol
    from tools.metrics.report import write_report
    from tools.metrics.sets import open_generated
    from tools.metrics.tables import to_console
    from tools.training.runtime import start_runtime

    changes = [*arguments.set, *([f"seed={arguments.seed}"] if arguments.seed is not None else [])]
    protocol = load_protocol(arguments.protocol, changes)
    cache, weights = storage(arguments)
    everything = ALL in arguments.metrics.lower().split(",")
    choices = Choices(
        metrics=metrics,
        protocol=protocol,
        family=arguments.extractor,
        weights=weights,
        needs_weights=not everything,
        needs_scores=bool(arguments.metrics) and not everything,
        repeats=arguments.repeats,
        cache=cache,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
    )
    generated = [open_generated(path) for path in arguments.model_path]
    names = set_names(arguments.names, generated)
    real = real_side(arguments, metrics, generated)
    output = arguments.output or default_output(generated, arguments)
    check_output(output, generated, real)
    with start_runtime("fp32") as runtime:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        if runtime.is_main:
            logging.getLogger("tools").setLevel(logging.INFO)
        result = evaluate(generated, names, real, choices, runtime)
        if result is None:
            return 0
        result = replace(result, inputs=inputs(arguments, metrics))
        files = write_report(result, output)
        print(to_console(result))
        print(f"\nwritten: {output}/{{{','.join(file.name for file in files)}}}")
    return 0


def storage(arguments: argparse.Namespace) -> tuple[Path | None, Any]:
    """Where features are kept (None: nowhere), and where weights may come from."""
    from tools.metrics.cache import cache_folder
    from tools.metrics.weights import WeightsOptions, parse_given

    folder = arguments.cache or cache_folder()
    options = WeightsOptions(
        cache=folder / "weights",
        given=parse_given(arguments.weights),
        allow_download=arguments.allow_download,
        trust=arguments.trust_weights,
    )
    return (None if arguments.no_cache else folder / "features"), options


def real_side(
    arguments: argparse.Namespace, metrics: Sequence[str], generated: Sequence[Generated]
) -> RealSide | None:
    """The real videos: as given, or what all the generators were trained on."""
    real = _real_side(arguments, metrics, generated)
    if real is None or real.held_out is None:
        return real
    others = [real.set, *(each.set for each in generated)]
    if real.held_out.path.resolve() in [each.path.resolve() for each in others]:
        raise ValueError(
            f"--held_out {real.held_out.path}: these videos are a side of the comparison already; "
            f"give real ones that are in none of the other sets"
        )
    return real


def _real_side(
    arguments: argparse.Namespace, metrics: Sequence[str], generated: Sequence[Generated]
) -> RealSide | None:
    from tools.metrics.choices import RealSide
    from tools.metrics.sets import open_real

    held_out = open_real(arguments.held_out) if arguments.held_out else None
    trained_on = {each.real.path.resolve() for each in generated if each.real}
    if arguments.real_path is not None:
        given = arguments.real_path.resolve()
        return RealSide(open_real(arguments.real_path), given in trained_on, held_out)
    if not any(METRICS[metric].needs_real for metric in metrics):
        return None
    for each in generated:
        if each.real is None:
            raise ValueError(
                f"--real_path: say where the real videos are; {each.set.path} belongs to no run "
                f"folder that tells what its generator was trained on"
            )
    if len(trained_on) > 1:
        raise ValueError(
            f"--real_path: the sets were trained on different data "
            f"({', '.join(sorted(map(str, trained_on)))}); say which real videos to compare with"
        )
    assert generated[0].real is not None
    return RealSide(open_real(generated[0].real), True, held_out)


def set_names(given: Sequence[str], generated: Sequence[Generated]) -> list[str]:
    """Different names for the sets: as given, their labels, or what differs in their paths."""
    paths = [each.set.path.resolve() for each in generated]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ValueError(f"--model_path: {twice} is given twice, perhaps as a run and its samples")
    if given:
        if len(given) != len(generated) or len(set(given)) != len(given):
            raise ValueError(
                f"--names: {len(generated)} different names are needed, one for each set, got "
                f"{len(given)}: {' '.join(given)}"
            )
        return list(given)
    labels = [each.label for each in generated]
    if len(set(labels)) == len(labels):
        return labels
    parts = [list(path.parts) for path in paths]
    while len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    while len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]
    return ["/".join(each) for each in parts]


def default_output(generated: Sequence[Generated], arguments: argparse.Namespace) -> Path:
    """Beside the videos, never among them; other protocols and extractors do not overwrite it."""
    from tools.metrics.facts import run_folder

    first = generated[0].set.path
    kind = f"{Path(arguments.protocol).stem}-{arguments.extractor}"
    several = f"-and-{len(generated) - 1}-more" if len(generated) > 1 else ""
    run = run_folder(generated[0])
    for parent in first.parents:  # as the user spelt it
        if str(parent.absolute()) == run:
            return parent / "metrics" / f"{first.name}{several}-{kind}"
    return first.parent / f"{first.name}{several}-metrics-{kind}"


def check_output(output: Path, generated: Sequence[Generated], real: RealSide | None) -> None:
    """Raise ValueError where no report can stand, or where it would be part of a set of videos."""
    existing = next(each for each in (output, *output.absolute().parents) if each.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        why = "cannot be written to" if existing.is_dir() else "is a file"
        raise ValueError(f"--output {output}: {existing} {why}; choose another folder")
    sets = [each.set for each in generated]
    if real is not None:
        sets += [each for each in (real.set, real.held_out) if each is not None]
    inside = [output.absolute(), *output.absolute().parents]
    for each in sets:
        if each.path.is_dir() and each.path.absolute() in inside:
            raise ValueError(
                f"--output {output}: lies inside the videos of {each.path}, where its picture "
                f"would be taken for one of their frames; choose a folder outside"
            )


def inputs(arguments: argparse.Namespace, metrics: Sequence[str]) -> dict[str, Any]:
    """The command line as it was understood, for metrics.json."""
    plain = {
        key: [str(item) for item in value] if isinstance(value, list) else value
        for key, value in vars(arguments).items()
    }
    plain = {key: str(v) if isinstance(v, Path) else v for key, v in plain.items()}
    return {**plain, "metrics": list(metrics), "working_folder": str(Path.cwd())}


if __name__ == "__main__":
    run_command(main)
