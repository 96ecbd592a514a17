"""Every experiment's settings load and build, without weights or memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from configs.load import load_run, load_sampling
from configs.schema import RunConfig
from models.latent_diffusion import LatentDiffusionConfig
from models.methods.endora import EndoraConfig
from models.registry import build_method, method_class, method_config

CONFIGS = Path(__file__).parents[2] / "configs"
RUNS = sorted(
    path
    for path in CONFIGS.glob("*/*.yaml")
    # Protocols of metrics.py and settings of semi_fixmatch.py are tested with these.
    if path.name != "sample.yaml" and path.parent.name not in ("metrics", "downstream")
)
SAMPLES = sorted(CONFIGS.glob("*/sample.yaml"))
OFFLINE = [
    "method.codec.name=pixels",
    "method.prior.name=vit_small_patch8_224",
    "method.prior.weights=untrained",
]


def load(path: Path, overrides: list[str]) -> RunConfig:
    return load_run(path, overrides, method_config)


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_there_are_experiments() -> None:
    assert {"col/endora.yaml", "kva/endora.yaml", "cho/endora.yaml"} <= set(map(name, RUNS))
    assert {"col/sample.yaml", "kva/sample.yaml", "cho/sample.yaml"} <= set(map(name, SAMPLES))


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_each_experiment_builds(path: Path) -> None:
    config = load(path, [])
    if isinstance(config.method, EndoraConfig):
        layers = ",".join("2" for _ in config.method.prior.pairs)  # that every prior has
        config = load(path, [*OFFLINE, f"method.prior.layers=[{layers}]"])
    elif isinstance(config.method, LatentDiffusionConfig):
        config = load(path, ["method.autoencoder=untrained"])
    elif config.method_name == "lvdm_autoencoder":
        config = load(path, ["method.perceptual.name=none"])
    method = build_method(config)
    with torch.device("meta"):
        networks = method.build_networks()
    assert sum(parameter.numel() for each in networks.values() for parameter in each.parameters())
    assert method.phases(0)


@pytest.mark.parametrize("path", SAMPLES, ids=name)
def test_each_sampling_file_loads_for_endora(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    overrides = [] if "checkpoint" in given else ["checkpoint=runs/none"]
    config = load_sampling(path, overrides, method_class("endora").Sampling())
    assert config.count >= 1


def test_the_ablation_adds_one_part_at_a_time() -> None:
    """Paper, table 3: joint images, then interlaced blocks, then the prior."""
    rows = ["plain", "modified_diffusion", "spatiotemporal", "prior"]
    parts = []
    for row in rows:
        config = load(CONFIGS / "ablation" / f"{row}.yaml", [])
        assert isinstance(config.method, EndoraConfig)
        parts.append(
            (
                config.data.images_per_clip > 0,
                config.method.transformer.interlaced,
                config.method.prior.weight > 0,
            )
        )
        assert config.output == f"runs/ablation-{row.replace('_', '-')}"
    assert parts == [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]


def test_the_main_experiments_are_the_references_recipe() -> None:
    config = load(CONFIGS / "col" / "endora.yaml", [])
    assert isinstance(config.method, EndoraConfig)
    assert config.method.transformer.sizes == (28, 1152, 16)
    assert (config.clip.frames, config.clip.size, config.clip.frame_interval) == (16, 128, 3)
    assert (config.train.batch_size, config.train.learning_rate) == (5, 1e-4)
    assert config.train.clip_from_step == 500_000
    assert config.train.clip_norm == 0.1
    assert config.method.prior.weight == 0.5
    assert config.method.prior.normalize == "none"
