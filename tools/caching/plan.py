"""What a cache will hold, decided before the first shard is made."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from configs.schema import RunConfig
from datasets.cache_index import CachedSource, CacheIndex, Part, frames_of_shard
from datasets.clips import open_sources
from datasets.fingerprints import Fingerprint, fingerprint, fingerprints, source_files
from datasets.sources import Source
from models.interface import Method

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def plan_cache(
    config: RunConfig, method: Method, device: torch.device, dtype: str, command: str
) -> tuple[CacheIndex, list[Source]]:
    """The index of a cache without shards yet, and the videos it is of.

    Every video is read once, for its SHA-256. Weights count as they are in memory.

    Inputs:  the device of the networks, a dtype of `DTYPES`, the command that makes this cache
    Raises:  FileNotFoundError, ValueError as `open_sources`, or where a video is broken
    """
    shape = (1, 3, config.clip.size, config.clip.size)
    parts = planned_parts(method.cached_parts(torch.zeros(shape, device=device)), dtype)
    found = open_sources(config.data)
    with ThreadPoolExecutor(4) as pool:  # counting waits for the disk
        counts = list(pool.map(lambda source: source.count(), found))
    prints = fingerprints([source_files(source) for source in found])
    index = CacheIndex(
        method_name=config.method_name,
        identity=method.cache_identity(),
        networks={n: weights_hash(net) for n, net in method.frozen_networks().items()},
        files=weight_files(method),
        size=config.clip.size,
        flips=config.data.flip,
        parts=parts,
        sources=[
            CachedSource(source.name, count, files)
            for source, count, files in zip(found, counts, prints, strict=True)
        ],
        shard_frames=1,
        command=command,
    )
    frames = frames_of_shard(index.frame_bytes, index.frames)
    return dataclasses.replace(index, shard_frames=frames), found


def planned_parts(example: Mapping[str, Tensor], dtype: str) -> dict[str, Part]:
    """Shapes and types of the parts of one frame.

    bf16 is for feature maps that leave the range of fp16. Latents stay within it, are small, and
    would lose more than an 8-bit pixel does, so they are fp16 then.
    """
    parts = {}
    for name, values in example.items():
        is_map = name.startswith("prior.")
        chosen = "fp16" if dtype == "bf16" and not is_map else dtype
        parts[name] = Part(tuple(values.shape[1:]), DTYPES[chosen])
    return parts


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, buffers that are not saved included."""
    digest = hashlib.sha256()
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)};".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weight_files(method: Method) -> dict[str, Fingerprint]:
    """Those of the files that the frozen networks come from."""
    return {name: fingerprint(files) for name, files in method.cache_files().items() if files}


def differences(old: CacheIndex, new: CacheIndex) -> list[str]:
    """How two caches differ in what they hold of a frame, whatever the videos."""
    before, now = _flat(old.content), _flat(new.content)
    keys = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    return [
        f"{key} {_short(before.get(key))} -> {_short(now.get(key))}"
        for key in keys
        if key != "shard_frames"
    ]


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # a hash


def space_left(folder: Path) -> int:
    """Bytes free on the disk where a folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
