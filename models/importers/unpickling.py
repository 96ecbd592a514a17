"""Follow the instructions of a pickle without importing or running anything that it names.

A pickle is a program: it names functions and classes and says what to call. Here a name never
leads to an import. It leads to a few functions of this file (tensors, dictionaries), to an inert
placeholder when it is on the list of names that known checkpoints hold, or to a refusal.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, BinaryIO

import torch

from models.importers.stored_tensors import Sealed, Storage, StoredTensor

Resolve = Callable[[str], object]  # the stand-in of a global, by its full name

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as Python 2 called them
# The function by which the StyleGAN family stores a module with its source text; the place of
# the function differs between the projects.
_PERSISTENT = "_reconstruct_persistent_obj"
_LOAD_STORAGE = "torch.storage._load_from_bytes"  # would run whatever the bytes say

_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}


class Inert:
    """Stands for an object whose class is not loaded. It keeps what the file says and does nothing.

    origin     full name of the class or function that the file names
    arguments  what the file would have called it with
    state      the attributes the object had, as stored; None where there are none
    entries    what a dictionary of the class held
    values     what a list or set of the class held
    """

    origin: str = ""

    def __new__(cls, *arguments: object, **named: object) -> Inert:
        made = super().__new__(cls)
        made.arguments = arguments
        made.named = named
        made.state = None
        made.entries = {}
        made.values = []
        return made

    arguments: tuple[object, ...]
    named: Mapping[str, object]
    state: object
    entries: dict[object, object]
    values: list[object]

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.entries[key] = value

    def append(self, value: object) -> None:
        """What a pickle calls to fill a list."""
        self.values.append(value)

    def extend(self, values: list[object]) -> None:
        """What a pickle calls to fill a list with several values."""
        self.values.extend(values)

    def add(self, value: object) -> None:
        """What a pickle calls to fill a set."""
        self.values.append(value)


class Persistent(Inert):
    """A module of the StyleGAN family: the name of its class and its attributes, no source text."""

    origin = _PERSISTENT


class Table(Sealed, dict[Any, Any]):
    """Stands for an OrderedDict: an ordinary dictionary without attributes."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Forget the attributes, such as the version numbers of a state dict."""


class StorageType(Sealed):
    """Stands for a class of storages."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Function(Sealed):
    """A function of this file in place of one that the pickle names."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


class SafeUnpickler(pickle._Unpickler):
    """Follows the instructions of a pickle; every name goes through `resolve`.

    The interpreter in Python keeps what a pickle memorises in a dictionary; that in C keeps a
    table, which one instruction could let grow to any size.
    """

    def __init__(
        self, file: BinaryIO, resolve: Resolve, storage: Callable[[Sequence[Any]], object]
    ) -> None:
        super().__init__(file)
        self._resolve = resolve
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a global; nothing is imported."""
        return self._resolve(f"{_RENAMED.get(module, module)}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """What a checkpoint keeps outside its pickle: storages."""
        return self._storage(pid)


class Globals:
    """The stand-ins of one file's globals.

    inert         names that become placeholders; one that ends in a dot stands for all that
                  begin with it
    load_storage  makes a storage of the bytes that a plain pickle holds of it
    """

    def __init__(self, inert: Collection[str], load_storage: Callable[[object], Storage]) -> None:
        self._made: dict[str, object] = {_LOAD_STORAGE: _Function(load_storage)}
        self._exact = frozenset(name for name in inert if not name.endswith("."))
        self._families = tuple(name for name in inert if name.endswith("."))

    def __call__(self, full: str) -> object:
        if full not in self._made:
            self._made[full] = self._make(full)
        return self._made[full]

    def _make(self, full: str) -> object:
        if full in _FUNCTIONS:
            return _FUNCTIONS[full]
        if full == "collections.OrderedDict":
            return Table
        found = storage_type(full)
        if found is not None:
            return found
        if full.rpartition(".")[2] == _PERSISTENT:
            return _Function(_persistent)
        if full in self._exact or full.startswith(self._families):
            return type("Inert", (Inert,), {"origin": full})
        raise ValueError(
            f"it names {full!r:.120}, a global that no checkpoint of a known kind needs; "
            f"nothing of it was run"
        )


def attributes(value: object) -> Mapping[Any, object]:
    """The attributes of a placeholder, or the entries of a mapping; empty for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, Inert):
        return {}
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # attributes and slots
        state = state[0]
    return state if isinstance(state, Mapping) else value.entries


def storage_type(full: str) -> StorageType | None:
    """The stand-in of a class of storages, or None when the name is of something else."""
    place, _, name = full.rpartition(".")
    if place in ("torch", "torch.cuda", "torch.storage") and name in _DTYPES:
        return StorageType(_DTYPES[name])
    return None


def _tensor(
    storage: object, offset: object, shape: object, strides: object, *_unused: object
) -> StoredTensor:
    if not isinstance(storage, Storage) or type(offset) is not int:
        raise ValueError("a tensor without a storage")
    return StoredTensor(storage, offset, _sizes(shape), _sizes(strides))


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(size) is int for size in value):
        raise ValueError("a tensor whose shape is no tuple of whole numbers")
    return value


def _parameter(tensor: object, *_unused: object) -> object:
    return tensor


def _typed(call: object, _kind: object, arguments: object, *_unused: object) -> object:
    if not isinstance(call, _Function) or not isinstance(arguments, tuple):
        raise ValueError("a tensor that is not made by a function of torch")
    return call(*arguments)


def _shape(sizes: object = ()) -> tuple[int, ...]:
    return _sizes(tuple(sizes) if isinstance(sizes, list | tuple) else sizes)


def _encoded(text: object, encoding: object = None) -> bytes:
    """How the oldest pickles write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


def _reconstructed(kind: object, *_unused: object) -> Inert:
    """How the oldest pickles make an object, before they give it its attributes."""
    if not isinstance(kind, type) or not issubclass(kind, Inert):
        raise ValueError("an object without a class")
    return kind()


def _persistent(description: object) -> Persistent:
    """A module from its description; the source text in it is passed over."""
    if not isinstance(description, dict) or not isinstance(description.get("class_name"), str):
        raise ValueError("a stored module without the name of its class")
    made = Persistent(description["class_name"])
    made.state = description.get("state")
    return made


_FUNCTIONS = {
    "_codecs.encode": _Function(_encoded),
    "copyreg._reconstructor": _Function(_reconstructed),
    "torch.Size": _Function(_shape),
    "torch._tensor._rebuild_from_type_v2": _Function(_typed),
    "torch._utils._rebuild_parameter": _Function(_parameter),
    "torch._utils._rebuild_parameter_with_state": _Function(_parameter),
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
}
