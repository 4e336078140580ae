"""A request to stop, in one process."""

import os
import signal

import pytest
import torch.distributed as dist

from lbtrain.faults import stopping
from lbtrain.faults.guard.protocol import SIGNALS
from lbtrain.faults.stopping import SECONDS_OF_ONE_REQUEST, StopRequest


@pytest.fixture(autouse=True)
def started_in_a_terminal(monkeypatch):
    """Not under nohup, and not to let go of the terminal that these tests print to."""
    monkeypatch.setattr(stopping, "let_go_of_terminal", lambda number: None)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def request_to_stop():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    stop = StopRequest()
    yield stop
    stop.close()
    dist.destroy_process_group()


@pytest.fixture
def exits(monkeypatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request(request_to_stop, number):
    assert not request_to_stop.agreed()
    os.kill(os.getpid(), number)
    assert request_to_stop.agreed() and request_to_stop.agreed()


def test_what_a_launcher_repeats_at_once_is_the_same_request(request_to_stop, exits):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert request_to_stop.agreed() and exits == []


def signalled_twice(monkeypatch, first: int, later: int) -> None:
    """`later` comes when it is no longer the same request."""
    os.kill(os.getpid(), first)
    now = stopping.time.monotonic()
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now + SECONDS_OF_ONE_REQUEST + 1)
    os.kill(os.getpid(), later)
    monkeypatch.undo()


def test_a_second_signal_later_ends_the_process(request_to_stop, exits, monkeypatch):
    signalled_twice(monkeypatch, signal.SIGINT, signal.SIGTERM)
    assert exits == [128 + signal.SIGTERM]


def test_a_limit_of_cpu_time_signals_every_second_and_is_one_request(request_to_stop, exits, monkeypatch):
    signalled_twice(monkeypatch, signal.SIGXCPU, signal.SIGXCPU)
    assert request_to_stop.agreed() and exits == []


def test_under_nohup_a_closed_terminal_stops_nothing():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    stop = StopRequest()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.agreed()
    stop.close()
    dist.destroy_process_group()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_signals_are_given_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    stop = StopRequest()
    assert all(signal.getsignal(number) not in before for number in SIGNALS)
    stop.close()
    dist.destroy_process_group()
    assert [signal.getsignal(number) for number in SIGNALS] == before
