"""Checkpoints in the layouts of the originals, written from networks of known weights.

The classes that the originals name exist only while a file is written.
"""

from __future__ import annotations

import collections
import pickle
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from configs.schema import ClipConfig, DataConfig, RunConfig
from diffusion.schedule import NoiseSchedule
from models.interface import Method
from models.latent_diffusion import UnetConfig
from models.methods.lvdm import LvdmConfig
from models.methods.lvdm_autoencoder import LvdmAutoencoderConfig
from models.methods.mostgan_v import MoStGANVConfig, MotionStylesConfig
from models.methods.stylegan_v import DiscriminatorConfig, MotionConfig, StyleGANVConfig

FRAMES, SIZE, LATEST = 4, 32, 64
STRENGTH = 0.25
SCALE, SHIFT = 0.33422927, 1.4606637


def formula(name: str, shape: torch.Size) -> Tensor:
    """Standard normal numbers that follow from a name."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return torch.from_numpy(np.asarray(draw, dtype=np.float32))


# ---------------------------------------------------------------- StyleGAN-V and MoStGAN-V


def gan_config(method_name: str) -> RunConfig:
    """A small GAN whose sizes differ from all defaults that can be told from its weights."""
    common: dict[str, Any] = {
        "channel_base": 1024,
        "channel_max": 64,
        "latent": 64,
        "motion": MotionConfig(
            width=64, kernel=11, anchor_distance=8, periods=32, longest_period=256
        ),
    }
    judge: dict[str, Any] = {"joined_at": 16, "conditioning_width": 64, "group": 2}
    method = (
        StyleGANVConfig(**common, discriminator=DiscriminatorConfig(hidden=48, **judge))
        if method_name == "stylegan_v"
        else MoStGANVConfig(
            **common,
            discriminator=DiscriminatorConfig(hidden=32, frame_differences=True, **judge),
            motion_styles=MotionStylesConfig(count=4, width=32, resolutions=[16, 32]),
        )
    )
    clip = ClipConfig(FRAMES, SIZE, 1, spacing="random", longest_video=LATEST)
    return RunConfig(
        method_name=method_name,
        output="runs/imported",
        clip=clip,
        data=DataConfig(folder="data", images_per_clip=0),
        method=method,
    )


def gan_networks(method: Method, change: float = 0.0) -> dict[str, nn.Module]:
    """Generator and discriminator filled by their names; `change` tells two sets apart."""
    networks = method.build_networks()
    for network in networks.values():
        for name, value in network.state_dict().items():
            if not name.startswith("augmentation."):
                slow = "mapping.fc" in name or "motion_encoder.conv" in name
                if name.endswith("bias"):
                    filled = 0.1 * formula(name, value.shape) + name.endswith("affine.bias")
                else:
                    filled = formula(name, value.shape) * (100 if slow else 1)
                value.copy_((1 + change) * filled)
    return networks


class Reconstructed:
    """Pickled as the originals pickle their modules: with the source text of their class."""

    def __init__(self, class_name: str, source: str, **state: object) -> None:
        self.class_name, self.source, self.state = class_name, source, state

    def __reduce__(self) -> tuple[object, ...]:
        description = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": self.class_name,
            "state": self.state,
        }
        function = sys.modules["src.torch_utils.persistence"]._reconstruct_persistent_obj
        return (function, (description,))


@contextmanager
def pretended(*names: str) -> Iterator[SimpleNamespace]:
    """Let classes and functions of these full names be importable, for pickle to name them."""
    made, modules = {}, {}
    for name in names:
        place, _, last = name.rpartition(".")
        parts = place.split(".")
        for depth in range(1, len(parts) + 1):
            full = ".".join(parts[:depth])
            if full not in sys.modules:
                modules[full] = sys.modules[full] = ModuleType(full)
        if last.startswith("_"):
            found: Any = lambda description: None  # noqa: E731
            found.__name__ = found.__qualname__ = last
            found.__module__ = place
        else:
            base = (dict,) if last == "EasyDict" else ()
            found = type(last, base, {"__module__": place})
        setattr(sys.modules[place], last, found)
        made[last.lstrip("_")] = found
    try:
        yield SimpleNamespace(**made)
    finally:
        for name in modules:
            del sys.modules[name]


def tree(
    tensors: Mapping[str, Tensor],
    names: SimpleNamespace,
    source: str,
    prefix: str = "",
    extra: Mapping[str, Mapping[str, object]] | None = None,
) -> object:
    """Modules within modules, of the kinds that the originals have at each place."""
    extra = extra or {}
    own = {name: value for name, value in tensors.items() if "." not in name}
    inner: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
    constant = ("w_avg", "resample_filter", "freqs", "phase_scales", "fourier_coefs", "p")
    state: dict[str, Any] = {
        "training": False,
        "_parameters": collections.OrderedDict(
            {n: nn.Parameter(v) for n, v in own.items() if n not in constant}
        ),
        "_buffers": collections.OrderedDict({n: v for n, v in own.items() if n in constant}),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": collections.OrderedDict(),
        "_modules": collections.OrderedDict(
            {
                name: tree(part, names, source, f"{prefix}{name}.", extra)
                for name, part in inner.items()
            }
        ),
        "weight_gain": np.float64(0.5),
        **extra.get(prefix, {}),
    }
    place = prefix.rstrip(".").rpartition(".")[2]
    plain = {
        "conv": nn.Sequential,
        "multimotionmap": nn.Sequential,
        "const_embed": nn.Embedding,
        "0": names.EqLRConv1d,
        "time_encoder": names.FixedTimeEncoder,
    }.get(place)
    if plain is None or prefix in ("b4.conv.", "time_encoder."):
        return Reconstructed(place or "Network", source, **state)
    made = plain.__new__(plain)
    made.__dict__.update(state)
    return made


def original_names(network: nn.Module, *, generator: bool) -> dict[str, Tensor]:
    """All tensors of a network with the constants that the originals store too."""
    tensors = {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith("augmentation.")
    }
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    low_pass = torch.outer(taps, taps) / 64
    for name in [name for name in tensors if name.endswith("conv0.weight")]:
        tensors[f"{name.removesuffix('weight')}resample_filter"] = low_pass
    if generator:
        encoder = "synthesis.motion_encoder.time_encoder."
        own: Any = network.get_submodule(encoder.rstrip("."))
        tensors[f"{encoder}freqs"] = own.frequencies[None]
        tensors[f"{encoder}phase_scales"] = own.phase_scales[None]
    else:
        own = network.get_submodule("time_encoder")
        tensors["time_encoder.time_encoder.fourier_coefs"] = own.frequencies[None]
    return tensors


def write_gan(
    method: Method,
    folder: Path,
    *,
    generator: Mapping[str, Tensor] | None = None,
    discriminator: Mapping[str, Tensor] | None = None,
    without: str = "",
    attributes: Mapping[str, object] | None = None,
    settings: bool = True,
    **entries: object,
) -> Path:
    """A published pickle in a folder.

    Inputs:  generator, discriminator, tensors to put in place of those of the networks, by name
             without, a tensor to leave out; attributes, of the generators; settings, whether the
             generators keep theirs; entries, top-level ones to put in place of the usual
    """
    trap = folder / "trap"
    source = f"open({str(trap)!r}, 'w').close()\nraise SystemExit('source text was run')\n"
    networks, raw = gan_networks(method), gan_networks(method, change=0.5)
    with pretended(
        "src.torch_utils.persistence._reconstruct_persistent_obj",
        "src.training.layers.EqLRConv1d",
        "src.training.layers.FixedTimeEncoder",
        "src.dnnlib.util.EasyDict",
    ) as names:
        distance = method.config.motion.anchor_distance  # type: ignore[attr-defined]
        group = method.config.discriminator.group  # type: ignore[attr-defined]
        node = OmegaConf.create(
            {"motion": {"motion_z_distance": distance, "use": True}, "sampling": {"n": [3]}}
        )
        root = {"cfg": node} if settings else {}
        root |= {"c_dim": 0, "z_dim": 64, "_init_kwargs": names.EasyDict(img_channels=3)}

        def whole(network: nn.Module, change: Mapping[str, Tensor] | None, of: bool) -> object:
            tensors = {**original_names(network, generator=of), **(change or {})}
            tensors.pop(without, None)
            extra = {"": {**root, **(attributes or {})}, "b4.": {"group_size": group}}
            return tree(tensors, names, source, extra=extra)

        optimizer = torch.optim.Adam(networks["generator"].parameters())
        content: dict[str, object] = {
            "training_set_kwargs": names.EasyDict(class_name="src.Dataset", size=np.int64(3)),
            "G": whole(raw["generator"], generator, True),
            "D": whole(networks["discriminator"], discriminator, False),
            "G_ema": whole(networks["generator"], generator, True),
            "augment_pipe": tree({"p": torch.tensor(STRENGTH)}, names, source),
            "G_opt": optimizer.state_dict(),
            "D_opt": optimizer,
            "vis": {"grid_z": [torch.zeros(2, 3)], "grid_c": np.zeros((2, 0))},
            "stats": names.EasyDict(cur_nimg=np.int64(512), cur_tick=7, batch_idx=16),
            **entries,
        }
        file = folder / "network-snapshot.pkl"
        file.write_bytes(pickle.dumps(content, protocol=4))
    return file


# ---------------------------------------------------------------- LVDM


def lvdm_autoencoder_config() -> RunConfig:
    """A small stage 1."""
    return RunConfig(
        method_name="lvdm_autoencoder",
        output="runs/imported",
        clip=ClipConfig(8, 32, 1),
        data=DataConfig(folder="data"),
        method=LvdmAutoencoderConfig(width=16, factors=[2, 4, 4], channels=3),
    )


def lvdm_config(autoencoder: str) -> RunConfig:
    """A small stage 2."""
    unet = UnetConfig(width=32, multipliers=[1, 2], blocks=1, attention_at=[2], heads=2)
    return RunConfig(
        method_name="lvdm",
        output="runs/imported",
        clip=ClipConfig(8, 32, 1),
        data=DataConfig(folder="data"),
        method=LvdmConfig(
            autoencoder=autoencoder, unet=unet, latent_scale=SCALE, latent_shift=SHIFT
        ),
    )


def fill_lvdm(network: nn.Module, change: float = 0.0) -> nn.Module:
    """Weights of about the size that keeps activations as they are."""
    for name, value in network.state_dict().items():
        if not value.is_floating_point() or name == "latent_moments":
            continue
        drawn = formula(name, value.shape)
        if value.ndim >= 2:
            drawn = drawn / (value.numel() / value.shape[0]) ** 0.5
        else:
            drawn = 0.1 * drawn + name.endswith(("weight", "running_var"))
        value.copy_((1 + change) * drawn)
    return network.eval()


def autoencoder_state(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A stage 1 as originals store it: kernels of padded convolutions under two names."""
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith(".conv.weight"):
            state[f"{prefix}{name.removesuffix('conv.weight')}weight"] = value
        state[f"{prefix}{name}"] = value
    return state


def denoiser_state(network: nn.Module) -> dict[str, Tensor]:
    """A denoiser's weights with the kernel axes of size 1 that originals have."""
    state = {}
    for name, value in network.state_dict().items():
        if name in ("latent_moments", "autoencoder_sha256"):
            continue
        if value.ndim == 4:
            value = value.unsqueeze(2)
        elif "qkv_" in name or "proj_out_" in name:
            value = value.unsqueeze(-1) if value.ndim == 2 else value
        state[name] = value
    return state


def diffusion_state(raw: nn.Module, average: nn.Module, inner: nn.Module) -> dict[str, Tensor]:
    """The state dict of stage 2."""
    schedule = NoiseSchedule.scaled_linear()
    return {
        "betas": schedule.betas.float(),
        "alphas_cumprod": schedule.signal_squared.float(),
        "logvar": torch.zeros(1000),
        **{f"model.diffusion_model.{n}": v for n, v in denoiser_state(raw).items()},
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(100),
        **{
            "model_ema." + f"diffusion_model.{n}".replace(".", ""): v
            for n, v in denoiser_state(average).items()
        },
        **autoencoder_state(inner, "first_stage_model."),
    }


def write_lightning(state: Mapping[str, Tensor], file: Path) -> Path:
    """A training checkpoint of the trainer of LVDM around a state dict."""
    name = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    with pretended(name) as names:
        weight = nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight])
        weight.sum().backward()
        optimizer.step()
        content = {
            "epoch": 3,
            "global_step": 1234,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": collections.OrderedDict(state),
            "callbacks": {names.ModelCheckpoint: {"monitor": "val", "best": torch.tensor(1.0)}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
        }
        torch.save(content, file)
    return file
