"""The command line: exit codes, one message, no traceback; what a run leaves and what a second start does
with it.
"""

import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist

import lbtrain.train
from lab.ranks import free_port
from lbtrain import Recipe, main
from lbtrain.data import open_source
from lbtrain.data.stream import Block
from lbtrain.engines.deepspeed_config import complete_config
from lbtrain.plan.plan import make_plan
from lbtrain.recipe import MAY_CHANGE_ON_RESUME, keys
from lbtrain.runs.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "recipes/digits/digits.py"
TINY = Recipe().vary(
    batch_size=32,
    bn_batch_size=8,
    duration="3it",
    engine="ddp",
    model=dict(name="cifar_resnet8"),
    schedule=dict(warmup="1it", decay="cosine"),
    log_every="1it",
    evaluate_every="3it",
    checkpoint=dict(every="2it"),
)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher's variables, and no process group left behind."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CROSS_RANK"):
        monkeypatch.delenv(name, raising=False)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def start(*words: str, recipe: Recipe = TINY) -> int:
    """The exit code of main in this process."""
    try:
        main(recipe, words)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert start(f"run_dir={run_dir}") == 0
    return run_dir


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["batch_size"], 2, "'batch_size' is not an override"),
        (["momentum=0.9"], 2, "did you mean optimizer.momentum?"),
        (["batch_size=many"], 2, "batch_size takes a whole number"),
        (["schedule.warmup=5"], 2, "a duration carries its unit"),
        (["--helpp"], 2, "'--helpp' is not an override"),
        (["bn_batch_size=5"], 2, "bn_batch_size=5. Nearest valid batch_size on 1 rank: 30, 35."),
        (["model.name=resnet51"], 2, "model.name=resnet51"),
        (["data.name=cifar10", "data.root=/no/such/folder"], 2, "data.root=/no/such/folder: no such folder"),
        (["run_dir=/dev/null/x"], 2, "run_dir=/dev/null/x cannot be used"),
        (["engine=deepspeed", "deepspeed.config=/no/such.json"], 2, "deepspeed.config=/no/such.json"),
        (["world_size=2"], 3, "world_size=2 was asked for, but 1 process runs"),
        (
            ["schedule.base_lr=1e38", "schedule.rule=none", "schedule.warmup=0it", "duration=20it"],
            5,
            "the loss is nan at step",
        ),
    ],
)
def test_exit_codes_and_one_message(tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert start(*words) == code
    message = capsys.readouterr().err
    assert message.startswith("error: ") and said in message
    assert message.count("\n") == 1 and "Traceback" not in message


@pytest.mark.parametrize("value", ["", "0", "1,", "1,a", "-1", "1.5", "٣", "1 2", "9999999"])
@pytest.mark.parametrize("key", ["plan_for", "deepspeed_config_for"])
def test_bad_world_sizes(capsys, key, value):
    assert start(f"{key}={value}") == 2
    assert (
        capsys.readouterr().err == f"error: {key}={value}: {key} takes world sizes, such as {key}=8,16,256.\n"
    )


def test_a_planned_world_that_cannot_be_ends_with_2_and_shows_the_others(capsys):
    assert start("plan_for=1,2,7") == 2
    shown = capsys.readouterr().out
    assert re.search(r"^ *2 +16 x 1 ", shown, re.M)
    assert "rejected on 7 ranks: batch_size=32 cannot be split over 7 ranks" in shown


def test_a_plan_names_files_that_are_not_there(tmp_path, capsys):
    """A configuration that DeepSpeed could not read is rejected; weights may lie where the run will be."""
    assert start("plan_for=1", "engine=deepspeed", "deepspeed.config=nothere.json") == 2
    assert "deepspeed.config=nothere.json: [Errno 2] No such file" in capsys.readouterr().out
    assert start("plan_for=1", "model.weights=missing") == 0
    assert "trained weights: note        model.weights=missing is neither a file" in capsys.readouterr().out
    torch.save({}, tmp_path / "weights.pt")
    assert start("plan_for=1", f"model.weights={tmp_path}/weights.pt") == 0
    assert f"trained weights              {tmp_path}/weights.pt" in capsys.readouterr().out


def test_a_plan_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert start("plan_for=1,2,4,8,16,32", "batch_size=64") == 0
    assert list(tmp_path.iterdir()) == []
    assert re.search(r"^batch size \(global\) +64$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_every_key_with_meaning_and_value(capsys, word):
    assert start("batch_size=8", word) == 0
    shown = capsys.readouterr().out
    flowing = re.sub(r"\n {6,}", " ", shown)
    for key, spec in keys():
        assert re.search(rf"^  {re.escape(key)}=.*? {re.escape(spec.metadata['help'])}", flowing, re.M), key
    assert re.search(r"^  batch_size=32 .* Default: 256\.$", flowing, re.M)
    assert re.search(r"^  seed=0 [^:]*$", flowing, re.M)  # its default
    assert "\n\n  model.name=" in shown and max(map(len, shown.partition("Keys:")[2].splitlines())) <= 100
    assert "  batch_size=32\n" in shown and "  schedule.warmup_start_lr=null\n" in shown
    assert "  schedule.milestones=30ep,60ep,80ep\n" in shown


def test_help_shows_values_that_can_be_written_back(capsys):
    start("--help")
    words = re.findall(r"^  (\S+=.*)$", capsys.readouterr().out.partition("Keys:")[2], re.M)
    assert len(words) == len(list(keys()))
    assert Recipe().with_overrides(words) == TINY


def test_the_deepspeed_config_of_a_recipe(capsys):
    assert start("deepspeed_config_for=4", "deepspeed.zero_stage=2", "optimizer.clip_norm=0.5") == 0
    shown = json.loads(capsys.readouterr().out)
    recipe = TINY.vary(deepspeed=dict(zero_stage=2), optimizer=dict(clip_norm=0.5))
    # The engine of the recipe says ddp; what is asked here is DeepSpeed's.
    plan = make_plan(recipe.vary(engine="auto"), 4, engine="deepspeed")
    assert shown == complete_config(plan)
    assert (
        shown["train_batch_size"],
        shown["train_micro_batch_size_per_gpu"],
        shown["gradient_clipping"],
    ) == (32, 8, 0.5)
    assert shown["zero_optimization"]["stage"] == 2


def test_several_worlds_give_a_list(capsys):
    assert start("deepspeed_config_for=1,2") == 0
    assert [config["train_micro_batch_size_per_gpu"] for config in json.loads(capsys.readouterr().out)] == [
        32,
        16,
    ]


def test_a_launchers_local_rank_is_no_override(tmp_path, capsys):
    assert start("--local_rank=0", "plan_for=1") == 0


def test_what_a_run_leaves(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "recipe.yaml",
        "plan.json",
        "fingerprint.json",
        "metrics.jsonl",
        "summary.csv",
        "summary.json",
        "checkpoints",
        "tensorboard",
        "lock",
    }
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("eval", 3),
    ]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["top1_error"] == rows[-1]["top1_error"]
    assert (summary["step"], summary["world_size"], summary["engine"]) == (3, 1, "ddp")
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert sorted(path.name for path in (finished / "checkpoints").glob("*.pt")) == [
        "step_000000002.pt",
        "step_000000003.pt",
    ]


def test_timm_loads_the_checkpoint_and_gives_the_error_of_the_summary(finished):
    path = finished / "checkpoints" / "step_000000003.pt"
    model = timm.create_model("cifar_resnet8", num_classes=10, in_chans=1, checkpoint_path=str(path)).eval()
    source = open_source(TINY.data, train=False, seed=0)
    images, labels = source.fetch(Block(np.zeros(357, np.int64), np.arange(357)))
    wrong = int((model(images).argmax(1) != labels).sum())
    assert json.loads((finished / "summary.json").read_text())["top1_error"] == pytest.approx(
        100 * wrong / 357
    )


def test_a_finished_run_started_again_says_so_and_changes_nothing(finished, capsys):
    files = [
        path
        for path in finished.rglob("*")
        if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".pt")
    ]
    before = {path: path.read_bytes() for path in files if path.name not in ("recipe.yaml", "plan.json")}
    assert start(f"run_dir={finished}") == 0
    assert "finished at step 3 (summary.json), and there is nothing to do" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before and len(before) == 5


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("batch_size=64", "batch_size was 32, is 64"),
        ("schedule.base_lr=0.2", "schedule.base_lr was 0.1, is 0.2"),
        ("model.args={zero_init_last: false}", "model.args was"),
        ("optimizer.no_decay=norm", "optimizer.no_decay was"),
        ("seed=1", "seed was 0, is 1"),
        ("precision=bf16", "precision was fp32, is bf16"),
        ("resume=never", "resume=never"),
    ],
)
def test_another_recipe_does_not_go_on_in_the_same_folder(finished, capsys, word, said):
    before = (finished / "recipe.yaml").read_text()
    assert start(f"run_dir={finished}", word) == 2
    assert said in capsys.readouterr().err
    assert (finished / "recipe.yaml").read_text() == before


def test_keys_that_may_change_on_resume_exist():
    assert set(dict(keys())) >= MAY_CHANGE_ON_RESUME


def test_mechanics_may_change_on_resume(tmp_path):
    run_dir = tmp_path / "run"
    assert start(f"run_dir={run_dir}") == 0
    (run_dir / "checkpoints" / "step_000000003.pt").unlink()
    assert (
        start(
            f"run_dir={run_dir}",
            "micro_batch_size=16",
            "log_every=2it",
            "checkpoint.keep=5",
            "data.workers=1",
        )
        == 0
    )
    assert json.loads((run_dir / "summary.json").read_text())["step"] == 3


def test_a_resumed_run_lets_go_of_the_checkpoint_that_it_has_read(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    assert start(f"run_dir={run_dir}", "ema.decay=0.9") == 0
    (run_dir / "checkpoints" / "step_000000003.pt").unlink()
    read, held = [], []
    newest, evaluate = Checkpoints.newest, lbtrain.train.evaluate

    def watched_newest(self):
        found = newest(self)
        states = [state["momentum_buffer"] for state in found.state["optimizer"].values()]
        read.extend(weakref.ref(tensor) for tensor in [*found.state["model"].values(), *states])
        return found

    def watched_evaluate(*args):
        held.append([tensor for reference in read if (tensor := reference()) is not None])
        return evaluate(*args)

    monkeypatch.setattr(Checkpoints, "newest", watched_newest)
    monkeypatch.setattr(lbtrain.train, "evaluate", watched_evaluate)
    assert start(f"run_dir={run_dir}", "ema.decay=0.9") == 0
    assert len(read) > 50 and held == [[]]


def run_script(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DIGITS), *words]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def test_a_real_process_says_one_thing_and_exits(tmp_path):
    done = run_script("optimiser.momentum=0.8", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: 'optimiser.momentum' is not a key of a recipe: did you mean optimizer.momentum?\n"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("batchsize=3", "'batchsize' is not a key of a recipe: did you mean batch_size?"),
        ("batch_size='3'", "batch_size='3': batch_size takes a whole number."),
        ("schedule=dict(warmup='5')", "schedule.warmup=5: a duration carries its unit."),
        (").__setattr__('batchsize', 3", "'batchsize' is not a key of a recipe: did you mean batch_size?"),
        (
            "batch_size=2 * Recipe().batchsize",
            "'batchsize' is not a key of a recipe: did you mean batch_size?",
        ),
        (
            "seed=Recipe().optimizer.momentun",
            "'momentun' is not a key of a recipe: did you mean momentum?",
        ),
        ("batch_size=two", "NameError: name 'two' is not defined"),
        ("optimizer=dict(**3)", "TypeError: dict() argument after ** must be a mapping, not int"),
        ("data=dict(root=open('/none').read())", "FileNotFoundError: [Errno 2] No such file or directory"),
    ],
)
def test_a_mistake_inside_a_recipe_file_ends_as_on_the_command_line(tmp_path, change, said):
    file = tmp_path / "mine.py"
    file.write_text(f"from lbtrain import Recipe, main\n\nmain(Recipe().vary({change}))\n")
    done = run_file(file)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"error: {said}") and done.stderr.endswith(f" ({file}:3)\n")


def run_file(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(file), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("parent", "line"),
    [
        ("from lbtrain import Recipe, main\nrecipe = Recipe().vary(batch_size=1 // 0)\n", 2),
        ("from lbtrain import Recipe, main\n\nrecipe = Recipe(\n", 3),
    ],
    ids=["an error", "a syntax error"],
)
def test_a_mistake_in_the_parent_of_a_recipe_names_the_parent(tmp_path, parent, line):
    (tmp_path / "parent_of_mine.py").write_text(parent)
    (tmp_path / "mine.py").write_text(
        "from lbtrain import main\nfrom parent_of_mine import recipe\nmain(recipe)\n"
    )
    done = run_file(tmp_path / "mine.py", "plan_for=1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.endswith(f" ({tmp_path / 'parent_of_mine.py'}:{line})\n")


def test_the_errors_of_a_script_that_is_no_recipe_keep_their_traceback(tmp_path):
    (tmp_path / "loop.py").write_text("import lbtrain\n\ndef main():\n    return 1 // 0\n\nmain()\n")
    done = run_file(tmp_path / "loop.py")
    assert done.returncode == 1 and done.stderr.startswith("Traceback")


@pytest.mark.parametrize(("kind", "code"), [("RecipeError", 2), ("DataError", 6)])
def test_an_error_after_the_process_group_has_started_is_said(tmp_path, kind, code):
    """torch's own hook holds back what the one around it prints, until that returns."""
    file = tmp_path / "own_loop.py"
    file.write_text(
        "import torch.distributed as dist\n"
        f"from lbtrain.errors import {kind}\n"
        "import lbtrain\n"
        f"dist.init_process_group('gloo', init_method='file://{tmp_path}/store', rank=0, world_size=1)\n"
        f"raise {kind}('the disk is full of cats')\n"
    )
    done = run_file(file)
    said = "error: the disk is full of cats\n"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_any_rank_names_a_mistake_on_its_own_command_line(tmp_path):
    done = run_script("batch_size=0", cwd=tmp_path, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    said = "error on rank 1: batch_size=0: batch_size must be at least 1.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (dict(RANK=""), "RANK= is not a number"),
        (dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1"), "rank 1 of 2 could not join the others"),
        (dict(RANK="3", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29519"), "RANK=3 of WORLD_"),
    ],
)
def test_a_process_that_no_rank_0_can_speak_for_says_itself_what_is_wrong(tmp_path, variables, said):
    words = ["engine=ddp", "duration=1it", f"run_dir={tmp_path}/run"]
    done = run_script(*words, cwd=tmp_path, **variables)
    assert done.returncode == 3 and done.stderr.startswith(f"error: {said}"), done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def run_ranks(run_dir: Path, *commands: list[str]) -> tuple[list[int], list[str]]:
    """Exit codes and messages of a rank per command line, started together."""
    shared = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(DIGITS), f"run_dir={run_dir}", *words],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(commands)
    ]
    said = [process.communicate(timeout=120)[1] for process in ranks]
    return [process.returncode for process in ranks], said


@pytest.mark.slow
def test_the_same_mistake_on_all_command_lines_is_one_message(tmp_path):
    codes, said = run_ranks(tmp_path / "run", *[["batchsize=3"]] * 3)
    mistake = "error: 'batchsize' is not a key of a recipe: did you mean batch_size?\n"
    assert (codes, said) == ([2, 2, 2], [mistake, "", ""])


@pytest.mark.slow
def test_a_mistake_on_one_command_line_ends_every_rank(tmp_path):
    codes, said = run_ranks(tmp_path / "run", [], ["batchsize=3"])
    assert codes == [2, 2], said
    mistake = "'batchsize' is not a key of a recipe: did you mean batch_size?"
    assert said[1] == ""
    assert re.search(rf"^error: rank 1 on \S+ .*{re.escape(mistake)}\. All ranks end$", said[0], re.M)


def test_a_run_directory_of_another_version_is_one_message(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TINY.to_yaml().replace("bn_momentum:", "norm_momentum:"))
    done = run_script(f"run_dir={tmp_path}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "recipe.yaml cannot be read ('norm_momentum' is not a key" in done.stderr
    assert "choose another run_dir" in done.stderr and os.listdir(tmp_path) == ["recipe.yaml"]


def test_a_plan_imports_no_engine(tmp_path):
    code = f"""
import runpy, sys
sys.argv = ["digits.py", "plan_for=1,2,4"]
runpy.run_path({str(DIGITS)!r}, run_name="__main__")
assert not {{"deepspeed", "accelerate"}} & set(sys.modules), "an engine was imported"
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_size_of_an_evaluation_pass_changes_no_score(tmp_path):
    """Passes of 8 images, as in training, against 359 at once, in which the last pass of another size is
    padded.
    """
    scores = []
    for size in (0, 359):
        assert start(f"run_dir={tmp_path}/{size}", "batch_size=8", f"validation_batch_size={size}") == 0
        scores.append(json.loads((tmp_path / str(size) / "summary.json").read_text()))
    same = ("top1_error", "top5_error", "loss")
    assert [scores[0][name] for name in same] == pytest.approx([scores[1][name] for name in same], rel=1e-6)
