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
from tools.metrics.catalogue import ALL, DEFAULT_METRICS, FAMILIES, METRICS, choose_metrics

if TYPE_CHECKING:
    from tools.metrics.evaluate import RealSide
    from tools.metrics.sets import Generated

OUTPUT_HELP = (
    "folder of metrics.json, .csv, .md and .png; by default RUN/metrics/SAMPLES-PROTOCOL-EXTRACTOR "
    "for samples of a run, otherwise SAMPLES-metrics-PROTOCOL-EXTRACTOR beside the first set; "
    "never inside a set, where a picture would count as a frame"
)


def main(command_line: Sequence[str] | None = None) -> int:
    """Read the command line (by default that of this process), evaluate and report."""
    arguments = parse(command_line)
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

    from tools.metrics.evaluate import Choices, evaluate
    from tools.metrics.protocol import load_protocol
    from tools.metrics.report import to_console, write_report
    from tools.metrics.sets import open_generated
    from tools.training.runtime import start_runtime

    changes = [*arguments.set, *([f"seed={arguments.seed}"] if arguments.seed is not None else [])]
    protocol = load_protocol(arguments.protocol, changes)
    cache, weights = storage(arguments)
    choices = Choices(
        metrics=metrics,
        protocol=protocol,
        family=arguments.extractor,
        weights=weights,
        required=bool(arguments.metrics) and ALL not in arguments.metrics.lower().split(","),
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


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """The command line; every option is known with - and with _."""
    parser = argparse.ArgumentParser(
        prog="metrics.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name: str, **settings: Any) -> None:
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        parser.add_argument(*spellings, dest=name, **settings)

    add(
        "model_path",
        type=Path,
        nargs="+",
        default=[],
        metavar="GENERATED",
        help="folders of generated videos, folders of samples, or run folders (newest samples)",
    )
    add(
        "real_path",
        type=Path,
        metavar="REAL",
        help="real videos: a folder, or a list file; by default what the run was trained on",
    )
    add(
        "held_out",
        type=Path,
        metavar="REAL2",
        help="real videos that were kept out of training, as a further row of the table",
    )
    add(
        "metrics",
        default="",
        metavar="NAME,NAME",
        help=f"some of {', '.join(METRICS)}, or {ALL}: whatever the extractors and weights at hand "
        f"can compute (default: {','.join(DEFAULT_METRICS)})",
    )
    add(
        "protocol",
        default="default",
        metavar="NAME_OR_YAML",
        help="which clips and frames are compared and how they are prepared: default, endora (the "
        "paper's table), stylegan-v, or a YAML file of the same keys; see --list",
    )
    add(
        "set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the protocol, as in --set real_stride=3 max_fake_clips=1024",
    )
    add(
        "extractor",
        choices=list(FAMILIES),
        default="reference",
        help="networks: those of the literature (their weights are needed), EfficientNet-Lite0 "
        "from an installed package, or a fixed random network; scores of the last two are "
        "comparable with nothing published",
    )
    add(
        "weights",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=PATH",
        help="weights of extractors, as in --weights i3d=i3d_torchscript.pt",
    )
    add("allow_download", action="store_true", help="fetch missing weights, checked by SHA-256")
    add(
        "trust_weights",
        action="store_true",
        help="take weights whose SHA-256 is unknown; every output then says so",
    )
    add(
        "cache",
        type=Path,
        metavar="DIR",
        help="folder of features and downloaded weights (default: $ENDORA_CACHE, or "
        "~/.cache/endora)",
    )
    add("no_cache", action="store_true", help="neither read nor keep features")
    add("output", type=Path, metavar="DIR", help=OUTPUT_HELP)
    add("names", nargs="+", default=[], metavar="NAME", help="names of the sets, in their order")
    add(
        "repeats",
        type=int,
        default=1,
        metavar="R",
        help="choose clips with R seeds and report the deviation over them too",
    )
    add("seed", type=int, metavar="N", help="of every choice of clips and resamples (default: 0)")
    add("batch_size", type=int, default=8, metavar="N", help="clips at once on the device")
    add("workers", type=int, default=2, metavar="N", help="processes that decode videos")
    add("list", action="store_true", help="print protocols, metrics and extractors, and stop")
    return parser.parse_args(command_line)


def storage(arguments: argparse.Namespace) -> tuple[Path | None, Any]:
    """Where features are kept (None: nowhere), and where weights may come from."""
    from tools.metrics.cache import cache_folder
    from tools.metrics.weights import WeightsOptions

    folder = arguments.cache or cache_folder()
    given = {}
    for entry in arguments.weights:
        name, separator, path = entry.partition("=")
        if not (name and separator and path):
            raise ValueError(f"--weights {entry}: not of the form NAME=PATH, as in i3d=file.pt")
        given[name] = Path(path)
    options = WeightsOptions(
        cache=folder / "weights",
        given=given,
        allow_download=arguments.allow_download,
        trust=arguments.trust_weights,
    )
    return (None if arguments.no_cache else folder / "features"), options


def real_side(
    arguments: argparse.Namespace, metrics: Sequence[str], generated: Sequence[Generated]
) -> RealSide | None:
    """The real videos: as given, or what all the generators were trained on."""
    from tools.metrics.evaluate import RealSide
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
    from tools.metrics.evaluate import run_folder

    first = generated[0].set.path
    kind = f"{Path(arguments.protocol).stem}-{arguments.extractor}"
    several = f"-and-{len(generated) - 1}-more" if len(generated) > 1 else ""
    run = run_folder(generated[0])
    if run is not None and Path(run) in first.absolute().parents:
        return Path(os.path.relpath(run)) / "metrics" / f"{first.name}{several}-{kind}"
    return first.parent / f"{first.name}{several}-metrics-{kind}"


def check_output(output: Path, generated: Sequence[Generated], real: RealSide | None) -> None:
    """Raise ValueError where the report would become part of a set of videos."""
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


def listing() -> str:
    """Protocols with all their fields, metrics and extractors, as text."""
    import dataclasses

    from tools.metrics.protocol import Protocol, load_protocol, preset_names

    protocols = {name: load_protocol(name) for name in preset_names()}
    lines = ["Protocols (--protocol; change a field with --set FIELD=VALUE)", ""]
    width = max(len(each.name) for each in dataclasses.fields(Protocol))
    lines.append(" " * (width + 4) + "".join(f"{name:>12}" for name in protocols))
    for each in dataclasses.fields(Protocol):
        if each.name != "name":
            values = [str(getattr(protocol, each.name)) for protocol in protocols.values()]
            lines.append(f"  {each.name:{width}}  " + "".join(f"{value:>12}" for value in values))
    lines += ["", "A limit of 0 is none; real_stride 0 is the generator's training stride.", ""]
    lines += ["Metrics (--metrics; ↓ lower is better, ↑ higher is better)", ""]
    for metric in METRICS.values():
        lines.append(f"  {metric.name:10}  {', '.join(kind.heading for kind in metric.kinds)}")
        lines.append(f"{'':14}{metric.meaning}")
        lines.append(f"{'':14}{_networks(metric.role)}")
    usual = ",".join(DEFAULT_METRICS)
    return "\n".join([*lines, "", f"Without --metrics: {usual}."])


def _networks(role: str) -> str:
    """Which network of each family computes it."""
    found = [f"{family}: {roles[role]}" for family, roles in FAMILIES.items() if role in roles]
    return "features " + "; ".join(found)


if __name__ == "__main__":
    run_command(main)
