"""Open a pickled checkpoint safely, in whichever of three containers it lies.

These are the zip archives and the older streams of torch.save, and plain pickles in which every
tensor carries its numbers as such a stream. Optimizer states of a large file cost neither time
nor memory, for numbers are read with `StoredTensor.read` alone.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from models.importers.known_globals import INERT
from models.importers.stored_tensors import Span, Storage
from models.importers.unpickling import Globals, Resolve, SafeUnpickler, StorageType, storage_type

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the streams that torch.save wrote before
_VERSION = 1001  # the second
_STREAM_HEADS = tuple(pickle.dumps(_MAGIC, protocol) for protocol in range(2, 6))
_ZIP_HEAD = b"PK\x03\x04"
_HEAD = max(len(_ZIP_HEAD), *map(len, _STREAM_HEADS))
_COUNT = struct.Struct("<q")  # numbers of one storage in a stream
_LOCAL_NAMES = struct.Struct("<HH")  # lengths of name and extra field in a zip entry's header
_LOCAL_NAMES_AT = 26
_LOCAL_SIZE = 30

# All that a broken or hostile sequence of pickle instructions raises.
_BROKEN = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    AttributeError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    NotImplementedError,
)


def read_pickle(path: Path, inert: Collection[str] = ()) -> object:
    """What a checkpoint holds: plain values, `StoredTensor`s and `Inert` placeholders.

    `inert` names further globals, besides `INERT`, that become placeholders.
    Raises FileNotFoundError, or ValueError in one line when the file is no pickle, is damaged,
    or names a global outside the lists.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    resolve = Globals((*INERT, *inert), _from_bytes)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(0)
            if head.startswith(_ZIP_HEAD):
                return _read_archive(file, path, resolve)
            if head.startswith(_STREAM_HEADS):
                return _read_stream(file, path, resolve)
            return SafeUnpickler(file, resolve, _no_storage).load()
    except _BROKEN as error:
        raise ValueError(
            f"{path}: not a checkpoint that opens in safe mode: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    """Our own words, or which of the many faults that end in no pickle it was."""
    if type(error) in (ValueError, zipfile.BadZipFile):
        return " ".join(str(error).split())[:300]
    return f"truncated, damaged or no pickle at all ({type(error).__name__})"


def _read_archive(file: BinaryIO, path: Path, resolve: Resolve) -> object:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        inside = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(inside) != 1:
            raise ValueError("a zip archive, but not one that torch.save wrote")
        folder = inside[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in entries:
            raise ValueError("a scripted program, not a checkpoint")
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise ValueError("written on a big-endian machine, which is not supported")
        program = archive.read(inside[0])
    known: dict[str, Storage] = {}

    def storage(pid: Sequence[Any]) -> Storage:
        dtype, key, count = _storage_id(pid)
        if key not in known:
            entry = entries.get(f"{folder}data/{key}")
            if entry is None:
                raise ValueError(f"truncated: storage {key!r:.40} is not there")
            known[key] = Storage(dtype, count, _entry_span(file, path, entry))
        if known[key].dtype != dtype:
            raise ValueError("a storage of two types")
        return known[key]

    return SafeUnpickler(io.BytesIO(program), resolve, storage).load()


def _entry_span(file: BinaryIO, path: Path, entry: zipfile.ZipInfo) -> Span:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError("a compressed storage, which torch.save does not write")
    file.seek(entry.header_offset + _LOCAL_NAMES_AT)
    lengths = _LOCAL_NAMES.unpack(file.read(_LOCAL_NAMES.size))
    start = entry.header_offset + _LOCAL_SIZE + sum(lengths)
    # Else reading would ask for as much memory as the directory of the archive claims.
    if start + entry.file_size > file.seek(0, io.SEEK_END):
        raise ValueError("truncated: the numbers of a tensor are not all there")
    return Span(path, start, entry.file_size, entry.CRC)


def _read_stream(file: BinaryIO, source: Path | bytes, resolve: Resolve) -> object:
    """The content of a torch.save stream: four pickles, the order of the storages, the numbers."""
    known: dict[str, Storage] = {}

    def storage(pid: Sequence[Any]) -> object:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # the stand-in of a class that is stored with its source text
        dtype, key, count = _storage_id(pid)
        # Where the numbers lie is known only after the pickle.
        made = Storage(dtype, count, Span(source, 0, count * dtype.itemsize))
        if (known.setdefault(key, made).dtype, known[key].count) != (dtype, count):
            raise ValueError("a storage of two types")
        return known[key]

    heads = [SafeUnpickler(file, resolve, _no_storage).load() for _ in range(3)]
    if heads[:2] != [_MAGIC, _VERSION]:
        raise ValueError("an unknown version of the stream of torch.save")
    content = SafeUnpickler(file, resolve, storage).load()
    order = SafeUnpickler(file, resolve, _no_storage).load()
    if not isinstance(order, list) or set(order) != known.keys():
        raise ValueError("the stream does not tell where its storages are")
    for key in order:
        (count,) = _COUNT.unpack(file.read(_COUNT.size))
        if count != known[key].count:
            raise ValueError("damaged: a storage of another length than announced")
        known[key].span.start = file.tell()
        file.seek(known[key].span.length, io.SEEK_CUR)
    if file.tell() > file.seek(0, io.SEEK_END):
        raise ValueError("truncated: the numbers of a tensor are not all there")
    return content


def _storage_id(pid: object) -> tuple[torch.dtype, str, int]:
    """Type, key and length from ("storage", type, key, device, length[, view])."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise ValueError("an unknown kind of object outside the pickle")
    if len(pid) == 6 and pid[5] is not None:
        raise ValueError("a view of a storage, which current versions of torch do not write")
    _, kind, key, _, count = pid[:5]
    if not isinstance(kind, StorageType) or not isinstance(key, str) or type(count) is not int:
        raise ValueError("a damaged reference to a storage")
    if count < 0:
        raise ValueError("a storage of negative length")
    return kind.dtype, key, count


def _no_storage(pid: object) -> NoReturn:
    raise ValueError("a reference to a storage where none can be")


def _storages_alone(full: str) -> object:
    found = storage_type(full)
    if found is None:
        raise ValueError(
            f"the numbers of a tensor name {full!r:.120}, no storage; nothing of it was run"
        )
    return found


def _from_bytes(content: object) -> Storage:
    """In place of `torch.storage._load_from_bytes`, which would run a whole pickle."""
    if not isinstance(content, bytes) or not content.startswith(_STREAM_HEADS):
        raise ValueError("the numbers of a tensor are not a stream of torch.save")
    found = _read_stream(io.BytesIO(content), content, _storages_alone)
    if not isinstance(found, Storage):
        raise ValueError("the numbers of a tensor are not a storage")
    return found
