from __future__ import annotations

import os
import signal

import pytest
import torch

from tools.training.runtime import Runtime
from tools.training.stopping import ECHO_SECONDS, StopRequest

RUNTIME = Runtime(torch.device("cpu"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130)]
)
def test_a_signal_asks_for_a_stop_between_steps(number: signal.Signals, status: int) -> None:
    with StopRequest(RUNTIME) as stop:
        assert not stop.agreed()
        os.kill(os.getpid(), number)
        stop.share()
        assert stop.agreed()
        assert stop.exit_status == status


def test_the_echo_of_a_signal_is_ignored_and_a_second_control_c_is_not() -> None:
    with StopRequest(RUNTIME) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_status == 130
        stop._noticed_at -= 2 * ECHO_SECONDS
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(RUNTIME):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_started_under_the_shield_survives_sigterm() -> None:
    with StopRequest(RUNTIME) as stop:
        with stop.shielded():
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as data workers have it
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed()
