import pytest

from tests.faults.jobs import Job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job that nothing befalls, which the others must equal in the end."""
    job = Job.start(tmp_path_factory.mktemp("undisturbed"))
    assert job.codes() == [0, 0], job.screen
    return job
