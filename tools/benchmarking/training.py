"""The training step: the published way, each change to it alone, and all of them together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import TrainConfig
from models.interface import Batch
from tools.benchmarking.counting import PARAMETER_BYTES, attention_bytes, item_work
from tools.benchmarking.networks import (
    BenchmarkedEndora,
    Model,
    cached_batch,
    new_denoiser,
    pixel_batch,
    write_codec,
)
from tools.benchmarking.reference import (
    REFERENCE,
    Layers,
    ParameterwiseEma,
    unfused_optimizer,
    with_layers,
)
from tools.benchmarking.tables import Row, Section, Setup, compared
from tools.benchmarking.timing import Spread, Work, alternate
from tools.training.ema import Ema
from tools.training.runtime import Runtime
from tools.training.state import TrainState

SETTINGS = TrainConfig(compile=False)
REFERENCE_NAME, OURS_NAME = "reference", "all together"
# Passes over all parameters that AdamW makes operation by operation, in its 8 operations (weight
# decay, two moments in three, root, division, addition, update), and those of the average.
UNFUSED_OPTIMIZER_PASSES, FUSED_OPTIMIZER_PASSES = 20, 7
UNFUSED_AVERAGE_PASSES, FUSED_AVERAGE_PASSES = 5, 3


@dataclass(frozen=True)
class Variant:
    """How a training step is computed; the defaults are the published way."""

    layers: Layers = REFERENCE
    bf16: bool = False
    fused_optimizer: bool = False
    foreach_average: bool = False
    compiled: bool = False


def variants(setup: Setup) -> dict[str, Variant]:
    """The reference, each change alone, and all of them. Compiling is for GPUs."""
    on_gpu = setup.device.type == "cuda"
    changes = {
        "bf16 alone": Variant(bf16=True),
        "fused attention alone": Variant(replace(REFERENCE, fused_attention=True)),
        "modulation once alone": Variant(replace(REFERENCE, modulation_once=True)),
        "averaged projection alone": Variant(replace(REFERENCE, averaged_projection=True)),
        "fused optimizer alone": Variant(fused_optimizer=True),
        "average at once alone": Variant(foreach_average=True),
    }
    if not setup.bf16:
        del changes["bf16 alone"]
    compiled = {"compiled alone": Variant(compiled=True)} if on_gpu else {}
    ours = Variant(Layers(), setup.bf16, True, True, on_gpu)
    return {REFERENCE_NAME: Variant(), **changes, **compiled, OURS_NAME: ours}


class Steps:
    """Training steps of all variants on one set of parameters, by the project's own `TrainState`.

    Optimizers and averages are shared by all variants that have the same kind, so that the
    largest model needs 32 bytes for each of its parameters, whatever the number of variants.
    """

    def __init__(
        self, model: Model, device: torch.device, codec_folder: Path | None = None
    ) -> None:
        self.model, self.device = model, device
        self.network = new_denoiser(model, device)
        self.method = BenchmarkedEndora(model, codec_folder)
        self.method.to(device)
        self.average = ParameterwiseEma({"denoiser": self.network}, SETTINGS.ema_decays[0])

    def step(self, variant: Variant, batch: Batch) -> Work:
        """A function that trains one step on a batch of the device."""
        network = with_layers(self.network, variant.layers, self.model.images)
        method = self.method.given(network, self._optimizer(variant.fused_optimizer))
        settings = replace(SETTINGS, compile=variant.compiled)
        state = TrainState(method, settings, Runtime(self.device, bf16=variant.bf16))
        state.averages = [self._average(variant.foreach_average)]
        phase = method.phases(0)[0]

        def run() -> None:
            state.take(phase, [batch])
            state.end_step()

        return run

    def gradient(self, variant: Variant, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss () and gradient (P,) of a batch with fixed random numbers; nothing is trained."""
        network = with_layers(self.network, variant.layers, self.model.images).train()
        network.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        with Runtime(self.device, bf16=variant.bf16).autocast():
            total = self.method.step_loss(network, batch).total
        total.backward()
        parts = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        return total.detach(), torch.cat(parts)

    @functools.cache  # noqa: B019 - the benchmark lives shortly
    def _optimizer(self, fused: bool) -> Optimizer:
        if fused:
            return self.method.build_optimizer(self.network, SETTINGS)
        return unfused_optimizer(self.network, SETTINGS)

    def _average(self, foreach: bool) -> Ema:
        if not foreach:
            return self.average
        average = Ema({}, SETTINGS.ema_decays[0])
        average.networks = self.average.networks
        return average


def training_section(setup: Setup) -> Section:
    """The step without codec and prior: what a training on a cache computes."""
    steps = Steps(setup.model, setup.device)
    batch = cached_batch(setup.model, setup.items, setup.device)
    chosen = variants(setup)
    loss, gradient = rounding(steps, chosen[OURS_NAME], batch)
    works = {name: steps.step(variant, batch) for name, variant in chosen.items()}
    warmup = 3 if setup.device.type == "cuda" else 1
    seconds = alternate(works, setup.device, setup.rounds, warmup)
    reference = Spread.of(seconds[REFERENCE_NAME]).median
    operations = item_work(setup.model.item).step * setup.items
    used = {
        name: operations / Spread.of(seconds[name]).median / setup.ceilings.rate(variant.bf16)
        for name, variant in chosen.items()
    }
    rows = compared(
        seconds,
        REFERENCE_NAME,
        predicted=predictions(setup, reference),
        utilisation=used,
    )
    return Section(
        "train",
        f"Training step of {setup.model.size}/2 on {setup.items} item(s), without codec and prior",
        "s per step",
        rows,
        [
            f"An item is {setup.model.frames} frames and {setup.model.images} images of "
            f"{setup.model.pixels}x{setup.model.pixels} pixels: "
            f"{item_work(setup.model.item).step / 1e9:.0f} GFLOP forward and backward. The step "
            f"is gradients, norm, AdamW and the average, by the trainer's own code. Utilisation "
            f"is these operations over the time, by the measured ceiling of the row's precision.",
            f"Rounding: on the same weights, batch and random numbers, all together differs from "
            f"the reference by {loss:.1e} of the loss and {gradient:.1e} of the gradient's norm.",
        ],
        facts={
            "operations": operations,
            "items": setup.items,
            "loss_difference": loss,
            "gradient_difference": gradient,
        },
    )


def rounding(steps: Steps, variant: Variant, batch: Batch) -> tuple[float, float]:
    """How far a variant is from the reference: |difference| / |reference| of loss and gradient."""
    exact_loss, exact = steps.gradient(Variant(), batch)
    loss, gradient = steps.gradient(variant, batch)
    away = (gradient - exact).norm() / exact.norm()
    return float((loss - exact_loss).abs() / exact_loss.abs()), float(away)


def predictions(setup: Setup, reference: float) -> dict[str, float]:
    """Expected ratios, from the reference's own time and from what each change saves.

    Operations at the measured ceiling and bytes at the measured bandwidth; what neither explains
    of the reference's time is taken to stay.
    """
    item, ceilings, items = setup.model.item, setup.ceilings, setup.items
    heads = setup.model.transformer.sizes[2]
    published = item_work(item, repeated_modulation=True, full_projection=True).step * items
    repeated = published - item_work(item, full_projection=True).step * items
    projected = published - item_work(item, repeated_modulation=True).step * items
    one_pass = PARAMETER_BYTES * item.parameters / ceilings.bandwidth
    halved = 1 / ceilings.fp32 - 1 / ceilings.bf16
    saved = {
        # Modulation and projection stay in fp32.
        "bf16 alone": (published - repeated - projected) * halved,
        "fused attention alone": attention_bytes(item, heads) * items / ceilings.bandwidth,
        "modulation once alone": repeated / ceilings.fp32,
        "averaged projection alone": projected / ceilings.fp32,
        "fused optimizer alone": one_pass * (UNFUSED_OPTIMIZER_PASSES - FUSED_OPTIMIZER_PASSES),
        "average at once alone": one_pass * (UNFUSED_AVERAGE_PASSES - FUSED_AVERAGE_PASSES),
    }
    if not setup.bf16:
        del saved["bf16 alone"]
    saved[OURS_NAME] = sum(saved.values())
    return {name: reference / max(reference - each, 1e-9) for name, each in saved.items()}


def online_section(setup: Setup) -> Section:
    """The step with codec and prior, and without them from a cache."""
    model, device = setup.model, setup.device
    steps = Steps(model, device, write_codec(setup.folder / "codec", model))
    pixels = pixel_batch(model, setup.items, device)
    cached = cached_batch(model, setup.items, device)
    every = variants(setup)
    ours = every[OURS_NAME]

    def encode() -> None:
        with torch.no_grad():
            steps.method.codec.encode(pixels.frames)
            assert steps.method.prior is not None
            steps.method.prior(pixels.frames)

    online = steps.step(ours, pixels)

    def rounded() -> None:
        steps.method.codec.encodes_in_bf16 = True
        online()
        steps.method.codec.encodes_in_bf16 = False

    works: Mapping[str, Work] = {
        "reference, codec and prior online": steps.step(every[REFERENCE_NAME], pixels),
        "all together, codec and prior online": online,
        "the same, method.codec.encode=bf16": rounded,
        "all together, from a cache": steps.step(ours, cached),
        "codec and prior alone": encode,
    }
    warmup = 3 if device.type == "cuda" else 0  # a median of long steps bears a cold first one
    seconds = alternate(works, device, setup.slow_rounds, warmup)
    operations = encoding_operations(steps.method, pixels.frames[:1, :1]) * (
        setup.items * (model.frames + model.images)
    )
    rows = compared(seconds, "reference, codec and prior online")
    least = operations / setup.ceilings.fp32
    rows[-1] = Row(rows[-1].name, rows[-1].values, note=f"at least {least:.3g} s at the ceiling")
    return Section(
        "online",
        f"Training step of {model.size}/2 with codec and prior",
        "s per step",
        rows,
        [
            f"Codec and prior have the published shapes and random weights: "
            f"{operations / setup.items / 1e12:.2f} TFLOP an item, against "
            f"{item_work(model.item).step / 1e12:.2f} TFLOP for training the network on it. The "
            f"codec runs in fp32 unless a row says otherwise, the prior in the step's precision. "
            f"Without a cache they bound what all other changes can gain.",
        ],
        facts={"encoding_operations": operations},
    )


def encoding_operations(method: BenchmarkedEndora, frame: Tensor) -> int:
    """Operations of codec and prior on one frame (1, 1, 3, H, W), as torch counts them."""
    assert method.prior is not None
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        method.codec.encode(frame)
        method.prior(frame)
    return int(counter.get_total_flops())


def own_step(
    model: Model, device: torch.device, items: int, *, bf16: bool, compiled: bool = False
) -> Work:
    """One step the project's own way on a cached batch; see `Steps.step`."""
    steps = Steps(model, device)
    variant = Variant(Layers(), bf16, True, True, compiled)
    return steps.step(variant, cached_batch(model, items, device))
