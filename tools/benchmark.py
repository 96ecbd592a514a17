"""Measure this project's speed and memory against the published way of computing the same.

    python -m tools.benchmark --output runs/benchmark
    python -m tools.benchmark --profile train,memory --size XL --items 5 --output runs/benchmark-xl

    OUTPUT/benchmark.md     tables; --update FILE also puts them between the marks in FILE
    OUTPUT/benchmark.json   every single time, the machine, versions and the commit
    OUTPUT/benchmark.png    what each change gains; growth.png, how the cost grows

Variants take turns in one process, and each is compared with the reference of its own round. The
reference is the same network on the same weights, computed as the published code does: fp32 (TF32
on GPUs), unfused attention, modulation repeated for every frame and token position, codec and
prior in every step, whole videos decoded, AdamW and average parameter by parameter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.errors import run_command
from tools.benchmarking.data import data_section
from tools.benchmarking.growth import growth_section
from tools.benchmarking.machine import Ceilings, load_average, measure_ceilings, processor
from tools.benchmarking.memory import memory_section
from tools.benchmarking.networks import Model
from tools.benchmarking.plot import draw_gains, draw_growth
from tools.benchmarking.sampling_speed import sampling_sections
from tools.benchmarking.tables import Section, Setup, section_text
from tools.benchmarking.training import online_section, training_section
from tools.training.environment import describe_environment
from tools.training.files import whole_file
from tools.training.runtime import Runtime

PARTS: Mapping[str, Callable[[Setup], list[Section]]] = {
    "data": lambda setup: [data_section(setup)],
    "train": lambda setup: [training_section(setup)],
    "online": lambda setup: [online_section(setup)],
    "sample": sampling_sections,
    "memory": lambda setup: [memory_section(setup)],
    "growth": lambda setup: [growth_section(setup)],
}
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
SIZES = ("S", "B", "L", "XL")

logger = logging.getLogger("tools.benchmark")


def main(command_line: Sequence[str] | None = None) -> int:
    """Read the command line (by default that of this process), measure and write."""
    given = parse(command_line)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    device = chosen_device(given.device)
    if given.update and not has_marks(given.update):
        raise ValueError(f"--update {given.update}: no file with the marks {BEGIN} and {END}")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as the published code has it
    began = time.monotonic()
    load = load_average()
    ceilings = measure_ceilings(device, quick=given.quick)
    with tempfile.TemporaryDirectory(prefix="endora-benchmark-") as folder:
        setup = plan(given, device, ceilings, Path(folder))
        sections: list[Section] = []
        facts: dict[str, Any] = {}
        for part in given.profile:
            since = time.monotonic()
            sections += PARTS[part](setup)
            logger.info("%s: %.0f s", part, time.monotonic() - since)
            facts = environment(setup, command_line, load) | {"seconds": time.monotonic() - began}
            write(given.output, setup, facts, sections)  # what is there, should the rest be stopped
    text = report(setup, facts, sections)
    if given.update:
        put_between_marks(given.update, text)
    print(text)
    return 0


def environment(
    setup: Setup, command_line: Sequence[str] | None, load: float | None
) -> dict[str, Any]:
    """With what and on what it was measured."""
    found = describe_environment(Runtime(setup.device, bf16=setup.bf16))
    arguments = sys.argv[1:] if command_line is None else command_line
    return {
        **{key: value for key, value in found.items() if key != "host"},
        "command": shlex.join(["python", "-m", "tools.benchmark", *arguments]),
        "processor": processor(),
        "load_average_before": load,
    }


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    add(
        "--profile",
        type=chosen_parts,
        default=list(PARTS),
        metavar="PARTS",
        help=f"one or more of {','.join(PARTS)}, in this order (default: all)",
    )
    add("--size", choices=SIZES, default="S", help="of the transformer (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    add("--items", type=int, help="items in a step, videos at once (default: 1, on a GPU 5)")
    add("--rounds", type=int, help="turns of every variant (default: 7, of slow ones 3)")
    add("--whole", action="store_true", help="run all of the 250 steps, extrapolate nothing")
    add("--quick", action="store_true", help="a small model and few rounds, to see that it works")
    add("--update", type=Path, metavar="FILE", help="put the tables between the marks in FILE")
    given = parser.parse_args(command_line)
    for name in ("items", "rounds"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: at least 1, got {value}")
    return given


def chosen_parts(text: str) -> list[str]:
    """The parts that a comma-separated list names, each once, in the order they run."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: choose one or more of {','.join(PARTS)}")
    return [name for name in PARTS if name in names]


def chosen_device(name: str) -> torch.device:
    """Raises ValueError where there is no GPU and one is asked for."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no GPU that torch can use")
    on_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", 0) if on_gpu else torch.device("cpu")


def plan(
    given: argparse.Namespace, device: torch.device, ceilings: Ceilings, folder: Path
) -> Setup:
    """What is measured, and how often."""
    on_gpu = device.type == "cuda"
    model = Model(size=given.size)
    if given.quick:
        model = Model(given.size, frames=4, images=2, pixels=32, depth=2, small_codec=True)
    part = 5 if given.quick else 0 if on_gpu or given.whole else 25
    return Setup(
        device=device,
        model=model,
        ceilings=ceilings,
        folder=folder,
        quick=given.quick,
        rounds=given.rounds or (3 if given.quick else 7),
        slow_rounds=given.rounds or (2 if given.quick else 3),
        items=given.items or (5 if on_gpu and not given.quick else 1),
        sampled_steps=part,
    )


def report(setup: Setup, facts: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """All tables as Markdown, after a paragraph about the machine."""
    ceilings = setup.ceilings
    torch_version = facts["packages"]["torch"]
    machine = facts["processor"]
    if setup.device.type == "cuda":
        machine = f"{facts['device']}; {machine}"
    load = facts["load_average_before"]
    busy = "" if load is None else f" Load before the start: {load:.1f}."
    changed = " with uncommitted changes" if facts["git_has_changes"] else ""
    head = (
        f"Measured on {machine}, {facts['threads']} thread(s), torch {torch_version}, commit "
        f"`{(facts['git_commit'] or 'unknown')[:12]}`{changed}, in {facts['seconds']:.0f} s: "
        f"`{facts['command']}`.{busy}\n\n"
        f"The machine's ceilings, measured in the same run: products {rate(ceilings.fp32)} in "
        f"fp32{' (TF32)' if setup.device.type == 'cuda' else ''} and {rate(ceilings.bf16)} in "
        f"bf16, memory {ceilings.bandwidth / 1e9:.1f} GB/s. The project's own variants run in "
        f"{'bf16' if setup.bf16 else 'fp32'} here.\n"
    )
    if setup.quick:
        head += "\nA quick run of a small model: it shows that everything works, not how fast.\n"
    return head + "\n" + "\n".join(section_text(section) for section in sections)


def rate(operations: float) -> str:
    """Operations a second for people."""
    if operations < 1e12:
        return f"{operations / 1e9:.0f} GFLOP/s"
    return f"{operations / 1e12:.3g} TFLOP/s"


def write(
    folder: Path, setup: Setup, facts: Mapping[str, Any], sections: Sequence[Section]
) -> None:
    """All files of a benchmark."""
    result = {
        "environment": facts,
        "model": dataclasses.asdict(setup.model),
        "items": setup.items,
        "bf16": setup.bf16,
        "quick": setup.quick,
        "ceilings": dataclasses.asdict(setup.ceilings),
        "sections": [dataclasses.asdict(section) for section in sections],
    }
    title = f"Endora {setup.model.size}/2 on {facts['processor']}"
    if setup.device.type == "cuda":
        title = f"Endora {setup.model.size}/2 on {facts['device']}"
    files = {
        "benchmark.json": json.dumps(result, indent=1).encode(),
        "benchmark.md": report(setup, facts, sections).encode(),
    }
    gains = [section for section in sections if any(row.ratios for row in section.rows)]
    if gains:
        files["benchmark.png"] = draw_gains(gains, f"{title}, against the published way")
    for section in sections:
        if section.key == "growth":
            files["growth.png"] = draw_growth(section, f"{title}: a training step from a cache")
    for name, content in files.items():
        with whole_file(folder / name) as file:
            file.write(content)


def has_marks(path: Path) -> bool:
    """Whether a file holds both marks, in their order."""
    text = path.read_text() if path.is_file() else ""
    return -1 < text.find(BEGIN) < text.find(END)


def put_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the marks of a file."""
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    with whole_file(path) as file:
        file.write(f"{before}{BEGIN}\n{text}\n{END}{after}".encode())


if __name__ == "__main__":
    run_command(main)
