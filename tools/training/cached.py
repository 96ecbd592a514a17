"""The method of a run, which beside a cache builds neither codec nor prior."""

from __future__ import annotations

from pathlib import Path

from configs.schema import RunConfig
from datasets.cache_index import CacheIndex, read_index
from datasets.cached import other_cache
from datasets.fingerprints import is_unchanged
from models.interface import Method
from models.registry import build_method, method_class


def build_for_training(config: RunConfig) -> Method:
    """The method that a run trains, its helpers on the CPU.

    With data.cache it is told the shapes of the cached parts instead of making them.
    Raises:  ValueError in one line where the cache is of another method, codec or prior
    """
    if config.data.cache is None:
        return build_method(config)
    if method_class(config.method_name).cache_identity is Method.cache_identity:
        raise ValueError(
            f"data.cache: the method {config.method_name} works on pixels and has nothing to "
            f"cache; leave data.cache empty"
        )
    folder = Path(config.data.cache)
    index = read_index(folder)
    if index.method_name != config.method_name:
        differences = [f"method_name {index.method_name} -> {config.method_name}"]
    else:
        method = build_method(config, cached=index.shapes)
        differences = identity_differences(index, method)
    if differences:
        raise ValueError(
            f"data.cache: {folder} is not of these settings: {'; '.join(differences)}; "
            f"{other_cache(folder)}"
        )
    return method


def identity_differences(index: CacheIndex, method: Method) -> list[str]:
    """How the networks that a method would use differ from those that a cache was made with.

    Weights are compared by the SHA-256 of their files (which are read only where size or times
    differ), and by their names where there are no files to compare.
    """
    identity = method.cache_identity()
    found = []
    for network, settings in identity.items():
        cached = index.identity.get(network)
        if cached is None:
            found.append(f"it holds nothing of the {network}")
            continue
        keys = [key for key in settings if key != "weights"]
        found += [
            f"method.{network}.{key} {cached.get(key)} -> {settings[key]}"
            for key in keys
            if cached.get(key) != settings[key]
        ]
        found += _weight_differences(index, network, method, settings)
    return found


def _weight_differences(
    index: CacheIndex, network: str, method: Method, settings: dict[str, object]
) -> list[str]:
    files, known = method.cache_files()[network], index.files.get(network)
    before, now = index.identity[network].get("weights"), settings.get("weights")
    if is_unchanged(files, known) if files and known else before == now:
        return []
    change = f"{before} -> {now}" if before != now else f"{now} is another file now"
    return [f"method.{network}.weights {change}"]
