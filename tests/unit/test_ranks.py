"""Ranks on one machine, as tests have them: all have one time limit."""

import os
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest

from lab import ranks
from lab.ranks import RankFailed, run_on_ranks


class Rank:
    """Its end of the pipe, with a reply in it or without one; remembers how long it was waited for."""

    def __init__(self, *replies):
        self.replies, self.waited = list(replies), 0.0

    def send(self, _):
        pass

    def poll(self, seconds):
        self.waited = seconds
        return bool(self.replies)

    def recv(self):
        return self.replies.pop()


def run(monkeypatch, *ranks):
    monkeypatch.setattr("lab.ranks._pool", lambda _: SimpleNamespace(pipes=ranks))
    return run_on_ranks(len(ranks), max, timeout=100)


def test_every_rank_has_the_time_limit_of_the_call(monkeypatch):
    ranks = Rank((True, "a")), Rank((True, "b"))
    assert run(monkeypatch, *ranks) == ["a", "b"]
    assert all(99 < rank.waited <= 100 for rank in ranks)


def test_a_message_says_how_long_a_rank_was_waited_for(monkeypatch):
    with pytest.raises(RankFailed, match=r"^rank 1: no answer in 0 s$"):
        run(monkeypatch, Rank((True, "a")), Rank())


@pytest.mark.parametrize("reply", [[], [(False, "rank 0: ValueError")]])
def test_when_one_has_failed_the_others_are_not_waited_for_as_long(monkeypatch, reply):
    other = Rank((True, "b"))
    with pytest.raises(RankFailed, match=r"^rank 0"):
        run(monkeypatch, Rank(*reply), other)
    assert other.waited <= (30 if reply else 100)


@pytest.mark.parametrize("unread", [False, True], ids=["before the job", "without reading it"])
def test_a_rank_that_has_ended_is_named_and_its_pool_is_given_up(monkeypatch, unread):
    here, there = Pipe()
    if unread:  # the system then answers the next read of this end with a reset
        here.send("job")
    there.close()
    pools = {1: SimpleNamespace(pipes=[here], end=here.close)}
    monkeypatch.setattr(ranks, "_POOLS", pools)
    with pytest.raises(RankFailed, match=r"^rank 0: the process ended$"):
        run_on_ranks(1, os.getpid)
    assert pools == {}
