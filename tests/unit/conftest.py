"""What every file of unit tests starts with."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(autouse=True, scope="module")
def no_process_group_is_left_behind() -> Iterator[None]:
    """A command that a test runs in this process makes a process group of one, which the next file's tests
    would find.
    """
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
