"""These tests run in the environment of `make colossalai`; elsewhere each is skipped, and counted."""

import importlib.util

import pytest


@pytest.fixture(scope="session", autouse=True)
def colossalai_is_here() -> None:
    if importlib.util.find_spec("colossalai") is None:
        pytest.skip("ColossalAI is not in this environment: make test-colossalai")
