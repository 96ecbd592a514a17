"""Writing beside making: in order, bounded, and without losing an error."""

from __future__ import annotations

import threading

import pytest

from sample.background import WAITING, BackgroundWriter


def test_jobs_run_in_order_beside_the_main_thread() -> None:
    done: list[int] = []
    threads: set[int] = set()

    def job(number: int) -> None:
        done.append(number)
        threads.add(threading.get_ident())

    with BackgroundWriter() as writer:
        for number in range(20):
            writer.submit(lambda number=number: job(number))
    assert done == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_making_waits_for_writing_that_falls_behind() -> None:
    gate, submitted = threading.Event(), []
    with BackgroundWriter() as writer:

        def make() -> None:
            for number in range(WAITING + 2):
                writer.submit(lambda: gate.wait(5) and None)
                submitted.append(number)

        maker = threading.Thread(target=make)
        maker.start()
        maker.join(0.2)
        assert len(submitted) == WAITING
        gate.set()
        maker.join(5)
    assert len(submitted) == WAITING + 2


def test_an_error_is_raised_by_the_next_call_or_at_the_end() -> None:
    def fail() -> None:
        raise OSError("disk full")

    def write(count: int) -> None:
        with BackgroundWriter() as writer:
            for _ in range(count):
                writer.submit(fail)
                made.append(True)

    for count, most in ((1, 1), (WAITING + 2, WAITING)):
        made: list[bool] = []
        with pytest.raises(OSError, match="disk full"):
            write(count)
        assert len(made) <= most


def test_what_is_finished_is_written_when_making_fails() -> None:
    done: list[bool] = []
    gate = threading.Event()

    def stopped() -> None:
        with BackgroundWriter() as writer:
            writer.submit(lambda: gate.wait(5) and done.append(True))
            gate.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert done == [True]
