"""Ranks on one machine, as tests have them: all have one time limit."""

from types import SimpleNamespace

import pytest

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
