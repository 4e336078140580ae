"""A parameter that gets a gradient on some ranks alone, as a branch on a rank's own images makes it, so that
ranks would exchange different things. The job ends in the first step, with its name.
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
ZERO_3 = ("engine=deepspeed", "deepspeed.zero_stage=3")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_parameter_without_gradient_on_one_rank_ends_the_job_by_its_name(tmp_path, engine):
    job = Job.start(tmp_path, "model.name=odd_read_on_rank_zero", *ENGINES[engine])
    try:
        codes = job.codes(150)
        assert RecipeError.exit_code in codes and None not in codes and 0 not in codes
        assert "extra.weight got no gradient in this step on rank 1" in job.screen
        assert "Traceback" not in job.screen
    finally:
        job.end()


@pytest.mark.slow
def test_under_zero_3_the_job_ends_before_a_step_is_taken_and_says_in_which_layer_each_rank_was(tmp_path):
    """Its forward pass exchanges weights, and gloo ends a process where ranks call different layers."""
    job = Job.start(tmp_path, "model.name=odd_read_on_rank_zero", *ZERO_3)
    try:
        codes = job.codes(150)
        assert None not in codes and 0 not in codes
        assert not (tmp_path / "run/metrics.jsonl").exists() or not job.losses()
        assert "All ranks end" in job.screen and "Traceback" not in job.screen
        assert re.search(r"rank 0[^;\n]* after step 0 \(training, layer extra\)", job.screen)
        assert re.search(r"rank 1[^;\n]* after step 0 \(training, layer (stage|head)", job.screen)
    finally:
        job.end()
