"""Costs of exchanges against the formulas by hand, and what overlap leaves exposed against a simulation in
small steps.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbtrain.errors import RecipeError
from tools.scaling_report.model.comm import Buckets, Cost, all_reduce_s, exchange_s, exposed_s, fill_buckets
from tools.scaling_report.model.presets import NETWORKS, NODE_LINKS
from tools.scaling_report.model.topology import Topology

LINK = Cost(np.array([1e-5]), np.array([1e-9]))  # 10 us, 1 GB/s


@pytest.mark.parametrize(
    ("algorithm", "ranks", "expected"),
    [
        ("ring", 4, 6 * 1e-5 + 1.5 * 0.1),
        ("tree", 4, 4 * 1e-5 + 2 * 0.1),
        ("halving-doubling", 4, 4 * 1e-5 + 1.5 * 0.1),
        ("halving-doubling", 5, 6 * 1e-5 + 3.5 * 0.1),
        ("parameter-server", 4, 2 * 1e-5 + 1.5 * 0.1),
        ("auto", 4, 4 * 1e-5 + 1.5 * 0.1),
        ("ring", 1, 0.0),
    ],
)
def test_all_reduce_of_100_mb_by_hand(algorithm, ranks, expected) -> None:
    assert all_reduce_s(100e6, ranks, LINK, algorithm=algorithm)[0] == pytest.approx(expected)


def test_the_measured_gloo_ring_is_reproduced() -> None:
    """Gloo over 1 Gbit/s Ethernet at 952 Mbit/s measured: 25 MB in 209 ms on 2 hosts and 318 ms on 4
    (docs/scaling.md).
    """
    link = Cost(np.array([2e-4]), np.array([1 / (952e6 / 8)]))
    assert all_reduce_s(25e6, 2, link, algorithm="ring")[0] == pytest.approx(0.209, rel=0.06)
    assert all_reduce_s(25e6, 4, link, algorithm="ring")[0] == pytest.approx(0.318, rel=0.06)


def test_a_hierarchical_exchange_sends_each_byte_out_of_a_node_once() -> None:
    topology = Topology(8, NODE_LINKS["nvlink2"], NETWORKS["eth-10"])
    local, remote = exchange_s(1e8, 32, topology, inside=LINK, between=LINK, algorithm="ring")
    assert local[0] == pytest.approx(6 * 1e-5 + 2 * 7 / 8 * 0.1)  # halving-doubling, the cheapest
    assert remote[0] == pytest.approx(6 * 1e-5 + 2 * 3 / 4 * 0.1)


def test_a_node_is_never_split() -> None:
    topology = Topology(8, NODE_LINKS["nvlink2"], NETWORKS["eth-10"])
    assert topology.layout(4) == (4, 1)
    assert topology.layout(256) == (8, 32)
    with pytest.raises(RecipeError, match="ask for 8 or 16"):
        topology.layout(12)


def test_buckets_hold_every_gradient_and_follow_backward() -> None:
    layers = [(4e6, 1.0)] * 20
    buckets = fill_buckets(layers)
    assert buckets.total_bytes == 80e6
    assert buckets.num_bytes[0] == 4e6  # the first is sent early
    assert buckets.num_bytes[1:3] == (28e6, 28e6)
    assert buckets.ready == pytest.approx(
        (1 / 3 + 2 / 3 / 20, 1 / 3 + 2 / 3 * 8 / 20, 1 / 3 + 2 / 3 * 15 / 20, 1.0)
    )


def test_accumulation_leaves_only_the_last_micro_step_to_hide_in() -> None:
    assert Buckets((1.0, 1.0), (0.5, 1.0)).accumulated(4).ready == (0.875, 1.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=6),
    st.floats(0.1, 2),
)
def test_exposure_equals_a_simulated_queue(buckets: list[tuple[float, float]], compute: float) -> None:
    buckets = sorted(buckets)
    free = 0.0
    for ready, cost in buckets:
        start = free if free > ready * compute else ready * compute
        free = start + cost
    exposed = exposed_s(
        np.array([compute]), [ready for ready, _ in buckets], [np.array([cost]) for _, cost in buckets]
    )
    assert exposed[0] == pytest.approx(max(free - compute, 0.0), abs=1e-12)
    total = math.fsum(cost for _, cost in buckets)
    assert exposed[0] <= total + 1e-12
