"""A parameter that gets a gradient on some ranks alone, as a branch on a rank's own images makes it, so that
ranks would exchange different things; and layers that they call in another order. The job ends before the
exchange, with the name.
"""

import re

import pytest

from lbtrain.errors import RecipeError
from tests.faults.jobs import Job

ENGINES = {
    "ddp": ["engine=ddp"],
    "accelerate": ["engine=accelerate"],
    **{f"zero{stage}": ["engine=deepspeed", f"deepspeed.zero_stage={stage}"] for stage in range(3)},
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_parameter_without_gradient_on_one_rank_ends_the_job_by_its_name(tmp_path, engine):
    job = Job.start(tmp_path, "model.name=odd_read_on_rank_zero", *ENGINES[engine])
    try:
        codes = job.codes(150)
        assert RecipeError.exit_code in codes and None not in codes and 0 not in codes
        assert "In this step on rank 1 extra.weight got no gradient" in job.screen
        assert "Traceback" not in job.screen
    finally:
        job.end()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("odd_read_on_rank_zero", r"after step 0 .*: rank 1 calls stage.0 where rank 0 called extra: ZeRO-3"),
        (
            "odd_order_on_rank_one",
            r"after step 1 .*: rank 1 calls other where the first pass called one: ZeRO",
        ),
    ],
)
def test_under_zero_3_the_job_ends_before_ranks_exchange_different_layers(tmp_path, model, words):
    """Each step of these jobs has two passes."""
    job = Job.start(tmp_path, f"model.name={model}", "engine=deepspeed", "deepspeed.zero_stage=3")
    try:
        codes = job.codes(150)
        assert RecipeError.exit_code in codes and None not in codes and 0 not in codes
        assert re.search(words, job.screen) and "Traceback" not in job.screen
    finally:
        job.end()
