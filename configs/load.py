"""YAML files and the command line -> one checked, plain dataclass.

    dataclass defaults  <-  base file  <-  YAML file  <-  key=value on the command line

A file may name another one with `base: ../col/endora.yaml` (relative to itself) and then hold
only what differs. OmegaConf goes no further than this file.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from configs.schema import MethodConfig, RunConfig, SampleConfig, SamplingConfig

Schema = TypeVar("Schema")


def load_run(
    path: Path | None, overrides: Sequence[str], method_config: Callable[[str], type[MethodConfig]]
) -> RunConfig:
    """The settings of a training run.

    Inputs:  path of a YAML file, `key=value` strings, and the settings class of a method by its
             name (`models.registry.method_config`); configs must not import models
    Raises:  ValueError in one line, naming the key and the file
    """
    given = merge_sources(path, overrides)
    name = given.get("method_name")
    if not isinstance(name, str):
        raise ValueError(f"{path or 'settings'}: method_name: say which method to train")
    return build(RunConfig(method=method_config(name)()), given, path)


def load_sampling(
    path: Path | None, overrides: Sequence[str], sampling: SamplingConfig
) -> SampleConfig:
    """The settings of a sampling job; `sampling` holds the method's own defaults."""
    return build(SampleConfig(sampling=sampling), merge_sources(path, overrides), path)


def build(defaults: Schema, given: DictConfig, path: Path | None = None) -> Schema:
    """Merge into the typed defaults and check; see `load_run` for the errors."""
    source = str(path) if path else "settings"
    try:
        merged = OmegaConf.merge(OmegaConf.structured(defaults), given)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ValueError(f"{', '.join(missing)}: no value given")
        return cast(Schema, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        raise ValueError(f"{source}: {_unknown_key(error, defaults)}") from None
    except OmegaConfBaseException as error:
        key = error.full_key or _misplaced(given, defaults)
        raise ValueError(f"{source}: {key}: {_first_line(error)}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None


def from_plain(defaults: Schema, values: dict[str, Any], source: Path | None = None) -> Schema:
    """Settings from the plain dictionary that a checkpoint holds."""
    return build(defaults, OmegaConf.create(values), source)


def to_plain(config: Any) -> dict[str, Any]:
    """A settings dataclass as nested dictionaries of numbers, strings, lists and None."""
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    return cast(dict[str, Any], _without_tuples(plain))


def to_yaml(config: Any) -> str:
    """The complete settings as YAML text."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def merge_sources(path: Path | None, overrides: Sequence[str]) -> DictConfig:
    """The untyped union of a file, the files it builds on and the command line."""
    given = _read(path, ()) if path else OmegaConf.create({})
    for override in overrides:
        if not re.match(r"[\w.]+=", override):
            raise ValueError(f"{override!r} is not of the form key=value, such as train.steps=100")
    try:
        return cast(DictConfig, OmegaConf.merge(given, OmegaConf.from_dotlist(list(overrides))))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"command line: {_first_line(error)}") from None


def _read(path: Path, parents: tuple[Path, ...]) -> DictConfig:
    path = path.resolve()
    if path in parents:
        raise ValueError(f"{path}: base: the files name each other in a circle")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such settings file; see the folders of configs/")
    try:
        content = OmegaConf.load(path)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {_first_line(error)}") from None
    if not isinstance(content, DictConfig):
        raise ValueError(f"{path}: expected `key: value` lines")
    base = content.pop("base", None)
    if base is None:
        return content
    return cast(DictConfig, OmegaConf.merge(_read(path.parent / base, (*parents, path)), content))


def _unknown_key(error: ConfigKeyError, defaults: Any) -> str:
    full_key = str(error.full_key)
    *section, key = full_key.split(".")
    owner = defaults
    for name in section:
        owner = getattr(owner, name)
    known = [field.name for field in dataclasses.fields(owner)]
    close = difflib.get_close_matches(key, known, n=1)
    place = f"{'.'.join(section)}." if section else ""
    hint = f"did you mean {place}{close[0]}?" if close else f"known here: {', '.join(known)}"
    return f"{full_key}: unknown key; {hint}"


def _misplaced(given: DictConfig, defaults: Any) -> str:
    """The first section that was given one value, for which OmegaConf names no key."""
    sections = [each.name for each in dataclasses.fields(defaults) if each.name in given]
    plain = [
        name
        for name in sections
        if dataclasses.is_dataclass(getattr(defaults, name, None))
        and not isinstance(given[name], DictConfig)
    ]
    return plain[0] if plain else "settings"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tuples(item) for item in value]
    return value
