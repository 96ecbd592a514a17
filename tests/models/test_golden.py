"""Agreement with the published networks for weights filled by a formula (tests/golden)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.shapes import VideoShape
from diffusion.objective import denoising_terms
from diffusion.samplers import SAMPLERS
from diffusion.schedule import NoiseSchedule
from diffusion.spacing import fractional_timesteps, integer_timesteps
from models.importers import import_original, imported_name, original_sizes, original_state
from models.methods.endora import EndoraConfig, GuidedDenoiser, TransformerConfig
from models.priors.features import PriorConfig

FOLDER = Path(__file__).parent.parent / "golden"
NUMBERS = np.load(FOLDER / "endora.npz")
FACTS: dict[str, Any] = json.loads((FOLDER / "endora.json").read_text())
VARIANTS = {  # name -> (interlaced, frames and images given)
    "endora": (True, 4),
    "endora_sequential": (False, 4),
    "endora_joint": (True, 6),
    "endora_joint_sequential": (False, 6),
}
TIMESTEPS = torch.tensor([3, 721])


def wave(shape: tuple[int, ...], phase: int, scale: float) -> Tensor:
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = scale * np.sin(0.37 * index * (1 + 0.001 * phase) + phase)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def original(variant: str) -> dict[str, Tensor]:
    """A state dict in the published layout, filled by the formula."""
    shapes = dict(FACTS["state_dict_shapes"][variant]["outside"])
    for block in range(FACTS["config"]["depth"]):
        for name, shape in FACTS["state_dict_shapes"][variant]["block"].items():
            shapes[f"blocks.{block}.{name}"] = shape
    learned = sorted(set(shapes) - {"pos_embed", "temp_embed"})
    state = {name: wave(tuple(shapes[name]), i, 0.05) for i, name in enumerate(learned)}
    tables = {name: torch.from_numpy(NUMBERS[name]) for name in ("pos_embed", "temp_embed")}
    return state | tables


def imported(variant: str) -> GuidedDenoiser:
    state = original(variant)
    sizes = original_sizes(state)
    interlaced = VARIANTS[variant][0]
    config = EndoraConfig(
        transformer=TransformerConfig(
            patch=sizes.patch,
            depth=sizes.depth,
            width=sizes.width,
            heads=FACTS["config"]["num_heads"],
            interlaced=interlaced,
        ),
        prior=PriorConfig(
            weight=0.5 if sizes.prior_width else 0.0,
            projection_width=sizes.projection_width or None,
        ),
    )
    side = sizes.rows * sizes.patch
    shape = VideoShape(sizes.frames, sizes.channels, side, side)
    denoiser = GuidedDenoiser(shape, config, [(sizes.prior_width, 16, 16)] * 4)
    denoiser.load_state_dict(import_original(state, interlaced=interlaced))
    return denoiser


def inputs() -> Tensor:
    return wave((2, 6, 4, 16, 16), 101, 1.0)


def assert_agrees(value: Tensor, name: str, rtol: float) -> None:
    """Largest difference relative to the largest magnitude of the reference."""
    expected = NUMBERS[name].astype(np.float64)
    found = value.detach().double().numpy().ravel()[::11]
    assert np.abs(found - expected).max() <= rtol * np.abs(expected).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward(variant: str) -> None:
    denoiser = imported(variant).eval()
    with torch.no_grad():
        output = denoiser(inputs()[:, : VARIANTS[variant][1]], TIMESTEPS).prediction
    assert_agrees(output, f"{variant}.out", rtol=1e-5)


def test_losses_and_gradients() -> None:
    denoiser, schedule = imported("endora_joint"), NoiseSchedule.linear()
    start, noise = inputs(), wave((2, 6, 4, 16, 16), 202, 1.2)
    tokens = [wave((12, 256, 384), 300 + layer, 1.0) for layer in range(4)]
    maps = [each.transpose(1, 2).reshape(2, 6, 384, 16, 16) for each in tokens]

    output = denoiser(schedule.add_noise(start, noise, TIMESTEPS), TIMESTEPS, prior=maps)
    terms = denoising_terms(schedule, output.prediction, start, noise, TIMESTEPS)
    np.testing.assert_allclose(terms.mse.detach(), NUMBERS["train.mse"], rtol=1e-5)
    np.testing.assert_allclose(terms.vb.detach(), NUMBERS["train.vb"], rtol=1e-5)
    np.testing.assert_allclose(output.guidance.detach(), NUMBERS["train.prr"], rtol=1e-5)

    (terms.mse + terms.vb).mean().add(0.5 * output.guidance).backward()
    parameters = dict(denoiser.named_parameters())
    for name, norm in FACTS["grad_norms"].items():
        gradient = parameters[imported_name(name, depth=24, interlaced=True)].grad
        assert gradient is not None
        # The prior's projection is summed in another order here (averaged kernel first).
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), name
    every = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None])
    assert len(every) == len(parameters)
    assert every.norm().item() == pytest.approx(FACTS["grad_norm_total"], rel=1e-4)


def test_schedule_and_respacing() -> None:
    schedule = NoiseSchedule.linear()
    for name, table in {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.signal_squared,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
    }.items():
        np.testing.assert_allclose(table[::37], NUMBERS[f"sched.{name}"], rtol=1e-12)
    for steps in (250, 50, 10):
        kept = fractional_timesteps(1000, steps)
        assert kept == NUMBERS[f"respace.{steps}"].tolist()
        np.testing.assert_allclose(
            schedule.respaced(kept).signal_squared,
            NUMBERS[f"respace.{steps}.alphas_cumprod"],
            rtol=1e-12,
        )
    assert integer_timesteps(1000, 50) == NUMBERS["respace.ddim50"].tolist()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_ten_step_samples(sampler: str) -> None:
    denoiser = imported("endora").eval()
    schedule = NoiseSchedule.linear().respaced(fractional_timesteps(1000, 10))
    shape, counter = (1, 4, 4, 16, 16), itertools.count(500)
    with torch.no_grad():
        sample = SAMPLERS[sampler](
            schedule,
            lambda noisy, timestep: denoiser(noisy, timestep).prediction,
            wave(shape, 404, 1.0),
            lambda: wave(shape, next(counter), 1.0),
            lambda done, total: None,
        )
    assert_agrees(sample, f"sample.{sampler}10", rtol=1e-5)


def test_a_foreign_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="x_embedder"):
        original_state({"model": {"conv.weight": torch.zeros(1)}})
    state = original("endora")
    with pytest.raises(ValueError, match=r"unknown weight 'blocks\.0\.surprise"):
        import_original({**state, "blocks.0.surprise.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="pos_embed is not"):
        import_original({**state, "pos_embed": state["pos_embed"] + 1})


def test_the_whole_reference_agrees(shared: Path) -> None:
    """The complete arrays, where the reference material is at hand."""
    numbers = np.load(shared / "golden" / "endora_reference.npz")
    for variant, (_, count) in VARIANTS.items():
        with torch.no_grad():
            output = imported(variant).eval()(inputs()[:, :count], TIMESTEPS).prediction.numpy()
        expected = numbers[f"{variant}.out"]
        assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()
