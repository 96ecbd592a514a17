"""Encode a data set once: latents and prior features on disk, for training without their networks.

    python -m tools.cache --config configs/col/endora.yaml --output data/col_cache
    python train.py --config configs/col/endora.yaml data.cache=data/col_cache

On four GPUs:    torchrun --standalone --nproc_per_node=4 -m tools.cache --config ... --output ...
After a stop, or when videos have changed, run the same command again: what fits stays, and every
byte of it is checked. `data.folder` and other settings are those of the training.

A cache serves any clip.frames, clip.frame_interval and data.images_per_clip, training with and
without flips, with and without its prior. It belongs to one set of videos, one clip.size, one
codec and one prior (layers and normalisation included); train.py refuses it elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from configs.errors import run_command
from configs.load import load_run
from configs.schema import RunConfig
from datasets.cache_index import NAME, CacheIndex, index_text, read_index, shard_name
from datasets.cache_shards import shard_problem
from datasets.sources import Source
from models.interface import Method
from models.registry import build_method, method_config
from tools.caching.encode import Encoder
from tools.caching.plan import DTYPES, differences, plan_cache, space_left
from tools.training.files import remove_partial_files, whole_file
from tools.training.lock import only_process
from tools.training.logging import duration
from tools.training.runtime import Runtime, start_runtime

Made = TypeVar("Made")

SPARE = 1.02  # the disk is to hold a little more than the shards
REPORT = 10.0  # seconds between two lines of progress

logger = logging.getLogger("tools.cache")


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the command line says beside the settings."""

    folder: Path
    dtype: str
    batch: int
    replace: bool
    estimate: bool
    command: str


def make_cache(config: RunConfig, choices: Choices) -> int:
    """Make, continue or check a cache; the exit status."""
    with start_runtime("fp32") as runtime, contextlib.ExitStack() as held:
        if not choices.estimate:  # which leaves no trace, and may look while a cache is made
            held.enter_context(only_process(choices.folder, runtime))
        method = build_method(config).to(runtime.device)
        device = runtime.device
        index, sources = from_main(runtime, lambda: plan(config, method, device, choices))
        encoder = Encoder(
            index, sources, method, runtime.device, choices.batch, max(1, config.data.workers)
        )
        missing = missing_shards(index, choices, runtime)
        from_main(runtime, lambda: announce(index, missing, encoder, choices, runtime))
        if choices.estimate:
            return 0
        if missing:
            from_main(runtime, lambda: begin(index, choices))
        progress = Progress(index, missing, runtime)
        for shard in missing[runtime.rank :: runtime.world_size]:
            encoder.write(shard, choices.folder, progress.add)
        runtime.barrier()
        if runtime.is_main:
            finish(index, choices)
    return 0


def plan(
    config: RunConfig, method: Method, device: torch.device, choices: Choices
) -> tuple[CacheIndex, list[Source]]:
    """The index to be, after a look at what the folder holds already.

    Raises:  ValueError where that was made with other settings and is not to be replaced
    """
    _tell("reading all videos once for their checksums")
    index, sources = plan_cache(config, method, device, choices.dtype, choices.command)
    if (choices.folder / NAME).is_file() and not choices.replace:
        old = read_index(choices.folder)
        found = differences(old, index)
        if found:
            raise ValueError(
                f"--output {choices.folder}: holds a cache made with other settings: "
                f"{'; '.join(found)}; choose another folder, or add --replace"
            )
        index = dataclasses.replace(index, shard_frames=old.shard_frames)
    return index, sources


def missing_shards(index: CacheIndex, choices: Choices, runtime: Runtime) -> list[int]:
    """The shards that are not there or not sound; every process looks at its share."""
    own = range(runtime.rank, index.shards, runtime.world_size)
    path_of = {shard: choices.folder / shard_name(shard) for shard in own}
    problems: dict[int, str | None] = {}
    told = time.monotonic()
    for shard, path in path_of.items():
        problems[shard] = shard_problem(path, index, shard)
        if runtime.is_main and time.monotonic() - told > REPORT:
            told = time.monotonic()
            _tell(f"checked {len(problems)}/{len(path_of)} shards")
    for shard, problem in problems.items():
        if problem and problem != "absent":
            logger.warning("%s: %s; it is made anew", path_of[shard], problem)
    found = [shard for shard, problem in problems.items() if problem]
    if not runtime.is_distributed:
        return found
    every: list[Any] = [None] * runtime.world_size
    dist.all_gather_object(every, found)
    return sorted(shard for part in every for shard in part)


def announce(
    index: CacheIndex, missing: Sequence[int], encoder: Encoder, choices: Choices, runtime: Runtime
) -> None:
    """Say what the cache takes, and refuse where the disk is too small."""
    sides = "from both sides" if index.flips else "from one side"
    parts = ", ".join(
        f"{name} {'x'.join(map(str, part.shape))} {part.dtype}"
        for name, part in index.parts.items()
    )
    print(f"{index.frames} frames of {len(index.sources)} videos, {sides}: {parts}")
    frames = frames_in(index, missing)
    needed = frames * index.frame_bytes
    # A shard that is made anew replaces one of about its size.
    freed = sum(
        path.stat().st_size
        for path in (choices.folder / shard_name(shard) for shard in missing)
        if path.is_file()
    )
    free = space_left(choices.folder)
    print(
        f"{size(index.frame_bytes)} a frame, {size(index.frames * index.frame_bytes)} in "
        f"{index.shards} shards; {index.shards - len(missing)} of them are there and sound; to "
        f"make: {size(needed)}; free on the disk: {size(free)}"
    )
    if needed * SPARE > free + freed:
        raise ValueError(
            f"--output {choices.folder}: the cache needs {size(needed)} more and the disk has "
            f"{size(free)}; choose another disk, or leave out the prior (--no-prior)"
        )
    if missing:
        seconds = frames * seconds_per_frame(encoder, missing[0]) / runtime.world_size
        print(f"about {duration(seconds)} on {runtime.world_size} process(es)", flush=True)


def seconds_per_frame(encoder: Encoder, shard: int) -> float:
    """Measured on one batch, after one to warm up; reading and encoding go on side by side."""
    block = max(encoder.blocks(shard), key=lambda block: block.last - block.first)
    encoder.encode_pixels(encoder.read(block))
    began = time.perf_counter()
    pixels = encoder.read(block)
    reading = (time.perf_counter() - began) / encoder.threads
    began = time.perf_counter()
    for part in encoder.encode_pixels(pixels).values():
        part.cpu()
    return max(reading, time.perf_counter() - began) / len(pixels)


def begin(index: CacheIndex, choices: Choices) -> None:
    """Claim the folder: an index without shards says what is being made."""
    remove_partial_files(choices.folder)
    write_index(index, choices.folder)


def finish(index: CacheIndex, choices: Choices) -> None:
    """Write the complete index, and remove shards that belong to no frame any more."""
    paths = [choices.folder / shard_name(shard) for shard in range(index.shards)]
    for path in set(choices.folder.glob("shard_*.safetensors")) - set(paths):
        path.unlink()
    index = dataclasses.replace(index, shard_bytes=[path.stat().st_size for path in paths])
    write_index(index, choices.folder)
    print(
        f"done: {size(sum(index.shard_bytes))} in {choices.folder}; train with "
        f"data.cache={choices.folder}"
    )


def write_index(index: CacheIndex, folder: Path) -> None:
    with whole_file(folder / NAME) as file:
        file.write(index_text(index).encode())


class Progress:
    """Lines on standard error: this process's frames, and when it will have made them all."""

    def __init__(self, index: CacheIndex, missing: Sequence[int], runtime: Runtime) -> None:
        self.runtime = runtime
        own = missing[runtime.rank :: runtime.world_size]
        self.total = frames_in(index, own)
        self.frames = 0
        self.began = self.told = time.monotonic()

    def add(self, frames: int) -> None:
        """Count frames that are encoded."""
        self.frames += frames
        now = time.monotonic()
        if not self.runtime.is_main or (now - self.told < REPORT and self.frames < self.total):
            return
        self.told = now
        rate = self.frames / max(1e-9, now - self.began)
        left = duration((self.total - self.frames) / rate)
        share = " of this process" if self.runtime.world_size > 1 else ""
        _tell(f"frame {self.frames}/{self.total}{share}  {rate:.1f} frames/s  remaining {left}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def frames_in(index: CacheIndex, shards: Sequence[int]) -> int:
    """Frames of some shards."""
    return sum(b - a for shard in shards for _, a, b in index.segments(shard))


def size(count: float) -> str:
    """Bytes for people: 12.3 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def from_main(runtime: Runtime, make: Callable[[], Made]) -> Made:
    """What the main process makes, on every process. An error there ends them all."""
    made: list[Any] = [make() if runtime.is_main else None]
    if runtime.is_distributed:
        dist.broadcast_object_list(made, src=0)
    return made[0]


def main(command_line: Sequence[str] | None = None) -> int:
    """Read the command line (by default that of this process) and make the cache."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the cache")
    parser.add_argument(
        "--no-prior", action="store_true", help="latents only, for trainings without the prior"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="fp16",
        help="of what is stored; bf16 is for feature maps beyond the range of fp16 and leaves "
        "latents in fp16 (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, default=32, help="frames encoded at once (default: 32)"
    )
    parser.add_argument(
        "--replace", action="store_true", help="make anew a cache of other settings"
    )
    parser.add_argument("--estimate", action="store_true", help="say what it takes, and stop")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in data.folder=DIR")
    given = list(sys.argv[1:] if command_line is None else command_line)
    arguments = parser.parse_intermixed_args(given)
    if arguments.batch < 1:
        raise ValueError(f"--batch: at least 1, got {arguments.batch}")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    overrides = [*arguments.overrides, *(["method.prior.weight=0"] if arguments.no_prior else [])]
    config = load_run(arguments.config, overrides, method_config)
    kept = [each for each in given if each not in ("--replace", "--estimate")]
    choices = Choices(
        folder=arguments.output,
        dtype=arguments.dtype,
        batch=arguments.batch,
        replace=arguments.replace,
        estimate=arguments.estimate,
        command=shlex.join(["python", "-m", "tools.cache", *kept]),
    )
    return make_cache(config, choices)


if __name__ == "__main__":
    run_command(main)
