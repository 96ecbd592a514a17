"""Peak memory of a few training steps, each variant in a fresh process."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tools.benchmarking.counting import KEPT_WIDTHS
from tools.benchmarking.networks import Model, cached_batch, pixel_batch, write_codec
from tools.benchmarking.tables import Row, Section, Setup
from tools.benchmarking.training import OURS_NAME, REFERENCE_NAME, Steps, Variant, variants

STEPS = 2
GIGABYTE = 1e9


@dataclass(frozen=True)
class Case:
    """What one process does."""

    model: Model
    variant: Variant
    device: str
    items: int
    codec: Path | None  # none trains from a cache


def memory_section(setup: Setup) -> Section:
    """Bytes at the highest moment, beyond the imported libraries."""
    folder = write_codec(setup.folder / "codec", setup.model)
    every = variants(setup)
    ours, device = every[OURS_NAME], str(setup.device)
    recomputing = replace(setup.model, checkpointing=True)
    cases: dict[str, Case] = {
        "reference, codec and prior online": Case(
            setup.model, every[REFERENCE_NAME], device, setup.items, folder
        ),
        "reference, from a cache": Case(
            setup.model, every[REFERENCE_NAME], device, setup.items, None
        ),
        "all together, codec and prior online": Case(
            setup.model, ours, device, setup.items, folder
        ),
        "all together, from a cache": Case(setup.model, ours, device, setup.items, None),
        "the same, activations recomputed": Case(recomputing, ours, device, setup.items, None),
    }
    if setup.quick:
        cases = dict(list(cases.items())[:2])
    peaks = {name: peak_of(case) for name, case in cases.items()}
    first = peaks["reference, codec and prior online"]
    rows = [Row(name, [peak / GIGABYTE], [first / peak]) for name, peak in peaks.items()]
    item = setup.model.item
    weights = 16 * item.parameters  # weight, average and two moments of 4 bytes each
    tokens = (item.total + item.frames) * item.tokens * (item.depth // 2) * setup.items
    kept = tokens * KEPT_WIDTHS * item.width * (2 if setup.bf16 else 4)
    return Section(
        "memory",
        f"Peak memory of training {setup.model.size}/2 on {setup.items} item(s)",
        "GB",
        rows,
        [
            f"By arithmetic: weights, moments and the average {weights / GIGABYTE:.2f} GB, "
            f"gradients {4 * item.parameters / GIGABYTE:.2f} GB, and what the blocks keep for "
            f"their backward pass {kept / GIGABYTE:.2f} GB. Measured is "
            + (
                "what the GPU's allocator gave out."
                if setup.device.type == "cuda"
                else "the resident memory of a process, less what it had after its imports; the "
                "system's allocator keeps what it once had."
            )
        ],
        better="less",
    )


def peak_of(case: Case) -> int:
    """Bytes, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_train_and_measure, (case, torch.get_num_threads()))


def _train_and_measure(case: Case, threads: int) -> int:
    torch.set_num_threads(threads)
    device = torch.device(case.device)
    torch.set_float32_matmul_precision("high")
    gc.collect()
    before = resident()
    steps = Steps(case.model, device, case.codec)
    make = pixel_batch if case.codec else cached_batch
    step = steps.step(case.variant, make(case.model, case.items, device))
    for _ in range(STEPS):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident() - before


def resident() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS") or peak_resident()


def peak_resident() -> int:
    """The most it has been. Not `getrusage` where there is another way: on Linux that counts the
    parent's memory as well, from the moment of its birth."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(key + ":")]
    return int(found[0]) * 1024 if found else None
