"""Two and four hosts for the launch tests; where hosts cannot be made, each test is skipped with the reason
(shown by `pytest -ra`).
"""

from collections.abc import Iterator

import pytest

from lab.hosts import Hosts, hosts_up, why_not


@pytest.fixture(scope="session")
def possible() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def two_hosts(possible: None) -> Iterator[Hosts]:
    with hosts_up(2) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def four_hosts(possible: None) -> Iterator[Hosts]:
    with hosts_up(4) as hosts:
        yield hosts
