from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tools.training.lock import only_process
from tools.training.runtime import Runtime

MAIN = Runtime(torch.device("cpu"))


def tries_in_a_child(folder: Path) -> int:
    """Exit status of a child process that tries to hold the folder: 0 held, 3 refused."""
    child = os.fork()
    if child == 0:
        try:
            with only_process(folder, MAIN):
                os._exit(0)
        except ValueError:
            os._exit(3)
        os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with only_process(tmp_path / "run", MAIN):
        assert tries_in_a_child(tmp_path / "run") == 3
    assert tries_in_a_child(tmp_path / "run") == 0


def test_other_ranks_need_no_lock(tmp_path: Path) -> None:
    with only_process(tmp_path / "run", Runtime(torch.device("cpu"), rank=1, world_size=2)):
        assert not (tmp_path / "run").exists()
