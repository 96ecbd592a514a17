"""The command line of metrics.py, and what --list prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.metrics.catalogue import ALL, DEFAULT_METRICS, FAMILIES, METRICS

OUTPUT_HELP = (
    "folder of metrics.json, .csv, .md and .png; by default RUN/metrics/SAMPLES-PROTOCOL-EXTRACTOR "
    "for samples of a run, otherwise SAMPLES-metrics-PROTOCOL-EXTRACTOR beside the first set; "
    "never inside a set, where a picture would count as a frame"
)


def parse(command_line: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """The command line; every option is known with - and with _."""
    parser = argparse.ArgumentParser(
        prog="metrics.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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


def listing() -> str:
    """Protocols with all their fields, metrics and extractors, as text."""
    import dataclasses

    from tools.metrics.protocol import Protocol, load_protocol, preset_names
    from tools.metrics.weights import KNOWN

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
    lines += ["", f"Without --metrics: {','.join(DEFAULT_METRICS)}.", ""]
    lines += ["Weights of the reference extractors (--weights NAME=PATH, or in the cache)", ""]
    for name, known in KNOWN.items():
        size = f"{known.size / 1e6:,.0f} MB" if known.size else "size not published"
        digest = f"sha256 {known.sha256[:16]}" if known.sha256 else "sha256 not published"
        lines.append(f"  {name:12}  {known.file}, {size}, {digest}")
        lines.append(f"{'':16}{known.source}; licence: {known.licence}")
    return "\n".join(lines)


def _networks(role: str) -> str:
    """Which network of each family computes it."""
    found = [f"{family}: {roles[role]}" for family, roles in FAMILIES.items() if role in roles]
    return "features " + "; ".join(found)
