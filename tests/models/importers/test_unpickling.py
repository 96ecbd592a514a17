"""Foreign pickles: what is in them arrives, and nothing that they name is run or imported."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import pickletools
import shutil
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.importers.containers import read_pickle
from models.importers.stored_tensors import StoredTensor
from models.importers.unpickling import Inert, attributes

Write = Callable[[object, Path], None]


def write_archive(value: object, path: Path) -> None:
    torch.save(value, path)


def write_stream(value: object, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch notes that the layout is an old one
        torch.save(value, path, _use_new_zipfile_serialization=False)


def write_plain(protocol: int) -> Write:
    def write(value: object, path: Path) -> None:
        path.write_bytes(pickle.dumps(value, protocol=protocol))

    return write


WRITERS: dict[str, Write] = {
    "archive": write_archive,
    "stream": write_stream,
    **{f"plain pickle {protocol}": write_plain(protocol) for protocol in (0, 2, 4, 5)},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_tensors_arrive_bit_for_bit_from_every_container(tmp_path: Path, writer: str) -> None:
    layer = torch.nn.Linear(3, 4)
    whole = torch.randn(6, 5)
    tensors = {
        "parameter": layer.weight,
        "transposed": whole.t(),
        "part": whole[2:4, 1:],
        "shared": whole,
        "half": torch.randn(7).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "whole": torch.arange(5),
        "boolean": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
    }
    WRITERS[writer]({"state": collections.OrderedDict(tensors)}, tmp_path / "file")
    found: Any = read_pickle(tmp_path / "file")
    assert list(found["state"]) == list(tensors)
    for name, expected in tensors.items():
        stored = found["state"][name]
        assert isinstance(stored, StoredTensor)
        value = stored.read()
        assert stored.shape == expected.shape
        assert value.dtype == expected.dtype
        assert value.is_contiguous()
        assert torch.equal(value, expected.detach()), name


@pytest.mark.parametrize("writer", WRITERS)
def test_objects_become_placeholders_with_their_attributes(tmp_path: Path, writer: str) -> None:
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "module": torch.nn.Sequential(layer),
        "optimizer": optimizer,
        "state": optimizer.state_dict(),
        "scalar": np.float64(2.5),
        "array": np.arange(3),
        "arguments": argparse.Namespace(width=3),
        "classes": {torch.nn.Linear: 1, torch.optim.Adam: {"best": None}},
        "set": {1, 2},
        "device": torch.device("cpu"),
    }
    WRITERS[writer](content, tmp_path / "file")
    found: Any = read_pickle(tmp_path / "file")
    inner = attributes(attributes(found["module"])["_modules"])["0"]
    assert isinstance(inner, Inert)
    assert inner.origin == "torch.nn.modules.linear.Linear"
    weight: Any = attributes(attributes(inner)["_parameters"])["weight"]
    assert torch.equal(weight.read(), layer.weight)
    assert attributes(found["arguments"]) == {"width": 3}
    assert {key.origin for key in found["classes"]} == {
        "torch.nn.modules.linear.Linear",
        "torch.optim.adam.Adam",
    }
    assert found["state"]["param_groups"][0]["lr"] == 1e-3


class Call:
    """Pickled as a call of a function with arguments."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return (self.function, self.arguments)


def refused(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ValueError, match="not a checkpoint that opens in safe mode") as error:
        read_pickle(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (exec, "builtins.exec"),
        (eval, "builtins.eval"),
        (getattr, "builtins.getattr"),
        (__import__, "builtins.__import__"),
        (shutil.rmtree, "shutil.rmtree"),
        (torch.load, "torch.serialization.load"),
        (torch.hub.load, "torch.hub.load"),
    ],
)
def test_a_function_outside_the_list_is_named_and_not_called(
    tmp_path: Path, writer: str, function: Callable[..., object], name: str
) -> None:
    trap = tmp_path / "trap"
    command = f"open({str(trap)!r}, 'w').close()"
    WRITERS[writer]({"G_ema": Call(function, command)}, tmp_path / "file")
    assert f"it names '{name}'" in refused(tmp_path / "file")
    assert not trap.exists()


def global_(name: str, protocol: int = 2) -> bytes:
    """The instruction that names a global."""
    module, _, last = name.rpartition(".")
    if protocol < 4:
        return b"c" + module.encode() + b"\n" + last.encode() + b"\n"
    return b"".join(b"\x8c" + bytes([len(p)]) + p.encode() for p in (module, last)) + b"\x93"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


RECONSTRUCT = "src.torch_utils.persistence._reconstruct_persistent_obj"
INERT = "src.training.networks.Generator"
TENSOR = "torch._utils._rebuild_tensor_v2"

# Programs that try to get from something harmless to something that runs.
TRICKS = {
    "dotted name of a known module": global_("builtins.object", 4)
    + b"\x8c\x08builtins\x8c\x10object.__class__\x93.",
    "getattr by the old module": b"c__builtin__\ngetattr\n" + text("x") + text("y") + b"\x86R.",
    "old importer": b"c__builtin__\n__import__\n" + text("os") + b"\x85R.",
    "instance instruction": b"(" + text("true") + b"ios\nsystem\n.",
    "object instruction": b"(" + global_("os.system") + text("true") + b"o.",
    "apply": global_("builtins.map") + global_("os.system") + text("true") + b"\x86R.",
    "registered extension": b"\x82\x01.",
    "state of a function": global_(TENSOR) + b"}" + text("__call__") + b"Nsb.",
    "slots of a function": global_(TENSOR) + b"N}" + text("_call") + global_(INERT) + b"s\x86b.",
    "state of the module loader": global_(RECONSTRUCT) + b"}" + text("x") + b"Nsb.",
    "state of a class": global_(INERT) + b"}" + text("__new__") + global_(INERT) + b"sb.",
    "new object of a function": global_(TENSOR) + b")\x81.",
    "call of a text": text("os.system") + b")R.",
    "call of an object": global_(INERT) + b")\x81)R.",
    "module without a class": global_(RECONSTRUCT) + b"}\x85R.",
    "module with a foreign class": global_(RECONSTRUCT)
    + b"}"
    + text("class_name")
    + global_("os.system")
    + b"s\x85R.",
    "tensor of nothing": global_(TENSOR) + b"NK\x00))\x89Nt.",
    "storage by reference": b"(" + text("storage") + b"tQ.",
    "bytes in a codec": global_("_codecs.encode") + text("ab") + text("zlib_codec") + b"\x86R.",
    "nothing left": b"R.",
    "no end": b"]",
    "unknown instruction": b"\xff.",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_end_in_one_line(tmp_path: Path, trick: str) -> None:
    (tmp_path / "file").write_bytes(b"\x80\x04" + TRICKS[trick])
    refused(tmp_path / "file")


def test_a_far_place_in_the_memory_of_a_pickle_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    assert read_pickle(tmp_path / "file") is None


def test_naming_a_known_module_does_not_import_it(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("raise SystemExit('imported')")
    file = tmp_path / "file"
    file.write_bytes(b"\x80\x04" + global_("src.training.Generator") + b")\x81.")
    sys.path.insert(0, str(tmp_path))
    try:
        found = read_pickle(file)
    finally:
        sys.path.remove(str(tmp_path))
    assert isinstance(found, Inert)
    assert not any(name.split(".")[0] == "src" for name in sys.modules)


def test_a_persistent_module_keeps_its_attributes_and_no_source(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    description = {
        "type": "class",
        "version": 6,
        "module_src": f"open({str(trap)!r}, 'w').close()",
        "class_name": "Generator",
        "state": {"z_dim": 8},
    }
    pickled = pickle.dumps(description, protocol=2)[2:-1]
    for place in ("src.torch_utils", "torch_utils", "somewhere.else"):
        program = global_(f"{place}.persistence._reconstruct_persistent_obj") + pickled
        (tmp_path / "file").write_bytes(b"\x80\x02" + program + b"\x85R.")
        found: Any = read_pickle(tmp_path / "file")
        assert attributes(found) == {"z_dim": 8}
        assert found.arguments == ("Generator",)
    assert not trap.exists()


def test_numbers_of_a_tensor_cannot_hold_a_program(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = Call(exec, f"open({str(trap)!r}, 'w').close()")
    inner = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(evil, inner, _use_new_zipfile_serialization=False)
    for content in (inner.getvalue(), pickle.dumps(evil), b"\x80\x02N."):
        call = Call(torch.storage._load_from_bytes, content)
        (tmp_path / "file").write_bytes(pickle.dumps({"D": call}))
        refused(tmp_path / "file")
    assert not trap.exists()
    (tmp_path / "file").write_bytes(
        pickle.dumps(Call(torch.storage._load_from_bytes, inner.getvalue()))
    )
    assert "the numbers of a tensor name 'builtins.exec'" in refused(tmp_path / "file")


class Reach:
    """A tensor that claims other numbers than its storage has."""

    def __init__(self, offset: object, size: object, stride: object) -> None:
        self.claim = (offset, size, stride)

    def __reduce__(self) -> tuple[object, ...]:
        storage = torch.arange(6.0).untyped_storage()
        typed = torch.storage.TypedStorage(
            wrap_storage=storage, dtype=torch.float32, _internal=True
        )
        return (torch._utils._rebuild_tensor_v2, (typed, *self.claim, False, {}))


@pytest.mark.parametrize("writer", ["archive", "stream", "plain pickle 4"])
@pytest.mark.parametrize(
    "claim",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (-1, (2,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (10**9, 10**9), (0, 0)),  # would fill the memory when copied
        (3, (2,), (-1,)),
        (0, (2, 3), (3,)),
        (0, (2.0,), (1,)),
    ],
)
def test_a_tensor_stays_inside_its_storage(
    tmp_path: Path, writer: str, claim: tuple[object, object, object]
) -> None:
    WRITERS[writer](Reach(*claim), tmp_path / "file")
    refused(tmp_path / "file")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, writer: str) -> None:
    file = tmp_path / "file"
    WRITERS[writer]({"state": {"a": torch.ones(40), "b": torch.zeros(3)}}, file)
    whole = file.read_bytes()
    for length in {0, 1, 5, 20, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
        file.write_bytes(whole[:length])
        refused(file)


def test_a_changed_number_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    file = tmp_path / "file"
    torch.save({"a": torch.full((64,), 1.5)}, file)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(struct.pack("<f", 1.5), struct.pack("<f", 2.5), 1))
    found: Any = read_pickle(file)
    with pytest.raises(ValueError, match="checksum"):
        found["a"].read()


def test_other_archives_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not one that torch.save wrote" in refused(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    assert "program" in refused(file)
    file.write_text("no checkpoint at all")
    refused(file)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_pickle(tmp_path / "absent")


def test_a_compressed_storage_is_refused(tmp_path: Path) -> None:
    """Else a small file could fill the memory."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "stored")
    with (
        zipfile.ZipFile(tmp_path / "stored") as source,
        zipfile.ZipFile(tmp_path / "file", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert "compressed" in refused(tmp_path / "file")


def test_an_archive_cannot_claim_more_than_it_has(tmp_path: Path) -> None:
    """Else reading a tensor would ask for exbibytes."""
    count = 2**60
    program = io.BytesIO()
    pickler = pickle.Pickler(program, protocol=2)
    pickler.persistent_id = lambda value: (  # type: ignore[assignment]
        ("storage", torch.FloatStorage, "0", "cpu", count) if value == "numbers" else None
    )
    pickler.dump({"a": "numbers"})
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("x/data.pkl", program.getvalue())
        archive.writestr("x/data/0", bytes(16))
        archive.getinfo("x/data/0").file_size = 4 * count
    assert "not all there" in refused(tmp_path / "file")


def test_a_name_can_be_taken_as_a_placeholder_on_request(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = Call(exec, f"open({str(trap)!r}, 'w').close()")
    (tmp_path / "file").write_bytes(pickle.dumps({"extra": evil, "step": 3}))
    found: Any = read_pickle(tmp_path / "file", inert=["builtins.exec"])
    assert found["step"] == 3
    assert isinstance(found["extra"], Inert)
    assert not trap.exists()


def test_the_programs_of_this_file_are_programs() -> None:
    """The tricks are refused for what they do, not for being no pickles at all."""
    broken = {"nothing left", "no end", "unknown instruction"}
    for name in TRICKS.keys() - broken:
        assert list(pickletools.genops(b"\x80\x04" + TRICKS[name])), name
