"""Tensors that still lie in their file: the numbers are read when they are asked for."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import Tensor


class Sealed:
    """An object that no instruction of a pickle can change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise ValueError(f"the pickle tries to change a {type(self).__name__}")


class Span(Sealed):
    """Bytes of a file, or of memory, that are read when asked for."""

    __slots__ = ("checksum", "length", "source", "start")

    def __init__(
        self, source: Path | bytes, start: int, length: int, checksum: int | None = None
    ) -> None:
        self.source = source
        self.start = start
        self.length = length
        self.checksum = checksum

    def read(self) -> bytearray:
        """A copy of the bytes. Raises ValueError when they are not all there, or damaged."""
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                file.seek(self.start)
                content = bytearray(self.length)
                read = file.readinto(content)
        else:
            content = bytearray(self.source[self.start : self.start + self.length])
            read = len(content)
        if read != self.length:
            raise ValueError("truncated: the numbers of a tensor are not all there")
        if self.checksum is not None and zlib.crc32(content) != self.checksum:
            raise ValueError("damaged: the numbers of a tensor do not fit their checksum")
        return content


class Storage(Sealed):
    """The numbers that one or more tensors show."""

    __slots__ = ("count", "dtype", "span")

    def __init__(self, dtype: torch.dtype, count: int, span: Span) -> None:
        if span.length != count * dtype.itemsize:
            raise ValueError(f"a storage of {count} x {dtype} has {span.length} bytes")
        self.dtype = dtype
        self.count = count
        self.span = span


class StoredTensor(Sealed):
    """A tensor that still lies in its file."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        count = 1
        for size in shape:
            count *= size
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if min((offset, *shape, *strides)) < 0 or (
            count and (last >= storage.count or count > storage.count)
        ):
            raise ValueError(f"a tensor of shape {shape} reaches outside its storage")
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.strides = strides

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers in the file."""
        return self.storage.dtype

    def read(self) -> Tensor:
        """The tensor on the CPU, in memory of its own. Raises ValueError as `Span.read`."""
        content = self.storage.span.read()
        if not content:
            return torch.zeros(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(content, dtype=self.dtype)
        return flat.as_strided(self.shape, self.strides, self.offset).clone(
            memory_format=torch.contiguous_format
        )

    def shows_the_same(self, other: StoredTensor) -> bool:
        """Whether both are the same numbers of the same storage in the same order."""
        return (
            self.storage is other.storage
            and self.offset == other.offset
            and self.shape == other.shape
            and self.strides == other.strides
        )
