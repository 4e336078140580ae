"""The batch split is exact: in float64, where rounding cannot grow to anything in a few steps, weights and
running statistics agree to twelve digits whatever the model, the number of ranks and the engine.
"""

import pytest
import torch

from lab.ranks import run_on_ranks
from tools.verify.model import difference_of_states
from tools.verify.traces import Question, Split, Trace, trained

MODELS = {
    "cifar_resnet8": ("{}", 32),
    "vit_tiny_patch16_224": ("{img_size: 32}", 32),
    "resnet18": ("{}", 32),
    "alexnet": ("{hidden: 16}", 67),
    "convnext_atto": ("{}", 32),
}
SPLITS = [
    (Split("micro-batches", 1, 4), "ddp", 0),
    (Split("ranks", 2, 4), "ddp", 0),
    (Split("ghost batches over ranks", 2, 2), "ddp", 0),
    (Split("ranks", 2, 4), "accelerate", 0),
    (Split("ranks", 2, 4), "deepspeed", 0),
    (Split("ranks", 2, 4), "deepspeed", 1),
]
EXACT = 1e-12
IN_FP32 = 1e-5
"""ZeRO steps fp32 copies of the weights, whatever the weights are."""


def question(name: str, engine: str = "ddp", zero_stage: int = 0) -> Question:
    args, size = MODELS[name]
    return Question(
        f"timm:{name}", args, 2, 2, 8, 4, size, "sgd", 0.05, 0.0, 0, engine=engine, zero_stage=zero_stage
    )


def write(asked: Question, split: Split, path: str) -> None:
    torch.save(trained(asked, split).state, path)


def compare(asked: Question, split: Split, path: str) -> float:
    """The largest relative difference; on rank 0, which has the whole state."""
    trace = trained(asked, split)
    return (
        difference_of_states(trace, Trace({}, torch.load(path, weights_only=True), []))
        if trace.state
        else 0.0
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory):
    """Where the weights lie that plain torch leaves, on one rank and in one piece."""
    folder = tmp_path_factory.mktemp("references")

    def path_of(name: str) -> str:
        path = folder / f"{name}.pt"
        if not path.is_file():
            run_on_ranks(1, write, question(name), Split("one piece", 1, 8), str(path))
        return str(path)

    return path_of


SLOW = ("resnet18", "alexnet", "convnext_atto")
CASES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS]


@pytest.mark.parametrize(("split", "engine", "zero_stage"), SPLITS, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("name", CASES)
def test_weights_agree_to_twelve_digits(reference, name, split, engine, zero_stage):
    asked = question(name, engine, zero_stage)
    difference = run_on_ranks(split.world_size, compare, asked, split, reference(name))[0]
    assert difference < (IN_FP32 if zero_stage else EXACT)
