from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tools.training.files import naming, remove_partial_files, whole_file


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.bin"
    with whole_file(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert list(path.parent.iterdir()) == [path]


def write_big_bytes(path: Path) -> None:
    with whole_file(path) as file:
        file.write(bytes(2**22))


def write_big_tensor(path: Path) -> None:
    with whole_file(path) as file:
        torch.save({"tensor": torch.zeros(2**20)}, file)


def write_and_fail(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"new")
        raise RuntimeError("mine")


@pytest.mark.parametrize("write", [write_big_bytes, write_big_tensor])
def test_a_full_disk_leaves_the_old_file_and_no_rest(
    tmp_path: Path, full_disk: None, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"cannot write .*file\.pt: .*free some space"):
        write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_caller_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="mine"):
        write_and_fail(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*a file is where a folder has to be"):
        write_big_bytes(tmp_path / "folder" / "file.bin")


def test_naming_tells_file_cause_and_advice(tmp_path: Path) -> None:
    def fail() -> None:
        with naming(tmp_path / "log"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*log: No space left on device; free some"):
        fail()


def test_nested_naming_tells_the_inner_file_once(tmp_path: Path) -> None:
    def fail() -> None:
        with naming(tmp_path), naming(tmp_path / "log"):
            raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(OSError, match=r"log: Permission denied; make the folder") as caught:
        fail()
    assert str(caught.value).count("cannot write") == 1


def test_only_partial_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a.pt.partial").write_text("")
    (tmp_path / "a.pt").write_text("")
    remove_partial_files(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
