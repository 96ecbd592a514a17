"""Compare samplers, steps and reuse by quality and time, from the same noise in one process.

    python -m tools.sampling_study --checkpoint configs/demo/weights/endora.safetensors \
        --output runs/sampling-study --videos 32 --real data/pretrain/frames

    OUTPUT/table.md, table.json   one row per choice; the first is what the others are compared with
    OUTPUT/NAME.png               the first videos of each choice, one per row

Distances are Frechet distances of untrained and of EfficientNet features: they order choices of
one model and are comparable with nothing published.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from configs.errors import naming, run_command
from configs.load import build, merge_sources
from models.methods.endora import EndoraSampling, GuidedDenoiser
from tools.benchmarking.sampling import CHOICES, Row, compare, markdown, sample_all
from tools.metrics.cache import cache_folder
from tools.metrics.extraction import extract
from tools.metrics.extractors.registry import build_extractor
from tools.metrics.features import FeatureExtractor, Features
from tools.metrics.protocol import Protocol
from tools.metrics.sets import open_real
from tools.metrics.weights import WeightsOptions
from tools.training.previews import contact_strip
from tools.training.runtime import Runtime, start_runtime
from tools.training.weights import load_for_sampling

logger = logging.getLogger(__name__)
EXTRACTORS = ("untrained-clips", "efficientnet-clips")
SHOWN = 4  # videos in a picture


def main() -> int:
    """Read the command line, sample, compare, write the table and the pictures."""
    given = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.videos < 2:
        raise ValueError(f"--videos: a distance needs at least 2, got {given.videos}")
    if given.batch_size < 1:
        raise ValueError(f"--batch-size: at least 1 video, got {given.batch_size}")
    choices = [_choice(text) for text in given.choice] or list(CHOICES)
    with start_runtime(given.precision) as runtime:
        method, networks, config = load_for_sampling(given.checkpoint, 0, runtime.device)
        denoiser = networks.get("denoiser")
        if not isinstance(denoiser, GuidedDenoiser):
            raise ValueError(f"{given.checkpoint}: this study is of the method endora alone")
        with naming(given.output):  # before hours of sampling, not after them
            given.output.mkdir(parents=True, exist_ok=True)
        options = WeightsOptions(cache=cache_folder())
        extractors = [
            build_extractor(name, options, runtime.device, config.clip.frames)
            for name in given.extractors
        ]
        real: dict[str, Features] = {}
        if given.real:
            protocol = Protocol(
                frame_size=config.clip.size,
                clip_frames=config.clip.frames,
                real_stride=config.clip.frame_interval,
            )
            real = _real(given.real, protocol, extractors, runtime)
        sampled = sample_all(
            method, denoiser, choices, runtime, given.videos, given.batch_size, logger.info
        )
        rows = compare(choices, sampled, extractors, real, logger.info)
    for row, found in zip(rows, sampled, strict=True):
        strip = contact_strip(found.videos[:SHOWN].float() / 127.5 - 1)
        name = row.name.replace(", ", "_").replace(" ", "_")
        Image.fromarray(strip.permute(1, 2, 0).numpy()).save(given.output / f"{name}.png")
    (given.output / "table.md").write_text(markdown(rows))
    (given.output / "table.json").write_text(json.dumps([_plain(row) for row in rows], indent=2))
    print(markdown(rows))
    return 0


def _plain(row: Row) -> dict[str, object]:
    plain = {"name": row.name, **asdict(row)}
    # JSON has no infinity, which is what equal videos have.
    return plain | {"psnr": row.psnr if math.isfinite(row.psnr) else None}


def _real(
    path: Path, protocol: Protocol, extractors: list[FeatureExtractor], runtime: Runtime
) -> dict[str, Features]:
    found = extract(
        open_real(path), "real", protocol, extractors, cache=cache_folder(), runtime=runtime
    )
    return dict(found.features)


def _choice(text: str) -> EndoraSampling:
    """Settings such as `sampler=unipc3 steps=12 reuse=0.2`."""
    return build(EndoraSampling(), merge_sources(None, text.split()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.sampling_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PATH")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--videos", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--real", type=Path, help="folder of real videos to compare with")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument(
        "--extractors", nargs="*", default=EXTRACTORS, metavar="NAME", help="default: %(default)s"
    )
    parser.add_argument(
        "--choice",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="such as 'sampler=unipc3 steps=12 reuse=0.2'; once for each row, the first is what "
        "the others are compared with (default: 16 choices)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
