"""Every file in recipes/: its contract, its plans from 8 to 256 ranks, three real steps."""

import ast
import json
import re
import runpy
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch.distributed as dist

from lbtrain.errors import RecipeError
from lbtrain.main import main
from lbtrain.plan.plan import Plan, make_plan
from lbtrain.plan.scaling import peak_lr
from lbtrain.recipe import Recipe
from lbtrain.recipe.contract import metric_of
from lbtrain.recipe.durations import Milestone
from lbtrain.recipe.files import contract_field
from lbtrain.recipe.findings import Difference
from lbtrain.tasks import primary_metric_of
from tests.counted import counted_once
from tests.recipes.tables import FIGURES, seen
from tools.catalogue import FOLDERS, README, contents, page, readme

FOLDER = Path(__file__).parents[2] / "recipes"
FILES = sorted(FOLDER.rglob("*.py"))
WORLDS = (8, 16, 32, 64, 128, 256)
# One recipe of every kind: all are checked and planned by default, these also take their three steps there.
KNOWN = {
    "alexnet", "alexnet_lars_8k", "alexnet_bn_8k", "alexnet_bn_lars_4k", "resnet44_4k_regime",
    "small_alexnet", "absa", "mask_rcnn_shapes", "mask_rcnn_goyal", "faster_rcnn", "retinanet",
    "wide_resnet_growth", "digits", "digits_720_unscaled", "fashion_mnist", "resnet101_8k", "resnet50",
    "resnet50_8k_no_warmup", "resnet50_lamb_32k", "resnet50_lars_32k",
}  # fmt: skip


MODERN = (
    "resnet50_mlperf", "resnet50_rsb", "resnet50_torchvision", "resnet50_ffcv", "resnet50_algoperf",
    "vit_s16", "deit_s", "swin_t", "convnext_t", "mask_rcnn_mlperf", "retinanet_mlperf",
    "airbench",
)  # fmt: skip
"""Beginnings of the names of recipes of 2021 and after, and of MLPerf's points. Most differ from each other
in numbers alone: they are planned, and these are trained.
"""
TRAINED = {
    "resnet50_mlperf_1632",
    "resnet50_rsb_a1",
    "deit_s",
    "mask_rcnn_mlperf_8",
    "retinanet_mlperf_256",
    "airbench94",
}


def named(name: str) -> Path:
    """The file of the recipe `name`; names are unique over the folders."""
    (path,) = [path for path in FILES if path.stem == name]
    return path


def load(path: Path) -> dict:
    """The names that a recipe file defines; recipes that it builds on are imported anew and forgotten."""
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        return runpy.run_path(str(path))
    finally:
        sys.path.remove(str(path.parent))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == path.parent:
                del sys.modules[name]


_BACKBONE = "backbone: {layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}, channels: 8, frozen: [conv1]"
_RCNN = f"{_BACKBONE}, box_features: 8, rpn_post_nms_top_n_train: 20, rpn_post_nms_top_n_test: 5"
SMALL_HEADS = {
    "mask_rcnn": f"{{{_RCNN}, mask_channels: 8, mask_layers: 1}}",
    "faster_rcnn": f"{{{_RCNN}}}",
    "retinanet": f"{{{_BACKBONE}, topk_candidates: 20}}",
}

every_recipe = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_the_folder_is_listed_whole():
    assert len(FILES) == len([name for name in FOLDER.rglob("*") if name.suffix == ".py"]) >= 50
    assert {path.stem for path in FILES} >= KNOWN | TRAINED


@every_recipe
def test_a_recipe_opens_with_its_contract(path):
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    first, _, rest = doc.partition("\n\n")
    assert first.endswith((".", ").", ":")) and "\n\n" not in first
    lines = {word: contract_field(rest, word) for word in ("Run", "Published", "Measured")}
    assert all(lines.values()), f"missing: {[word for word, line in lines.items() if not line]}"
    assert f"recipes/{path.relative_to(FOLDER)}" in lines["Run"]
    measured = lines["Measured"]
    assert measured == "not yet" or re.search(r"results/\S+", rest), (
        "Measured says 'not yet' until a row in results/ backs it"
    )


@every_recipe
def test_a_recipe_lists_what_differs_from_its_source(path):
    """A recipe of a published setting says where it is not the source's, or which recipe of its folder says
    so.
    """
    doc = ast.get_docstring(ast.parse(path.read_text()))
    differs = contract_field(doc, "Differs")
    assert bool(differs) or contract_field(doc, "Published").startswith("nothing")
    if other := re.match(r"in what (\w+) lists", differs):
        doc = ast.get_docstring(ast.parse((path.parent / f"{other[1]}.py").read_text()))
        assert contract_field(doc, "Differs")
        assert not contract_field(doc, "Differs").startswith("in what") or "; " in contract_field(
            doc, "Differs"
        )


@every_recipe
def test_a_recipe_file_is_short_and_holds_no_loop(path):
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 60
    assert not [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.For | ast.While | ast.FunctionDef | ast.ClassDef)
    ]
    assert path.read_text().rstrip().endswith('if __name__ == "__main__":\n    main(recipe)')


@every_recipe
def test_an_expectation_is_a_published_figure(path):
    """The number opens the contract's line, in the recipe's own metric, and stands in the tables of sources
    as an error or as the accuracy that it is; never a recalled one.
    """
    recipe = load(path)["recipe"]
    published = contract_field(ast.get_docstring(ast.parse(path.read_text())), "Published")
    if not recipe.expect:
        assert re.search(
            r"nothing|without numbers|not at hand|model zoo|best between|other settings not stated|abstract",
            published,
        )
        return
    if recipe.expect.target:
        number = re.match(r"(\d+\.\d) ± \d+\.\d epochs to top-1 error 24.1 %", published)[1]
        assert float(number) == round(recipe.expect.value, 1) and str(recipe.evaluate_every) == "1ep"
        assert recipe.expect.target == ",".join(map(str, recipe.stop_at))
        return  # tests/recipes/test_mlperf.py holds the number
    value, accuracy = recipe.expect.value, 100 - recipe.expect.value
    number = float(re.match(rf"{metric_of(recipe)} (\d+\.\d+)", published)[1])
    kinds = {
        "top1_error": {"top1_error": value, "top1_accuracy": accuracy, "test_accuracy": accuracy},
        "mask_ap": {"mask_AP": value},
    }[recipe.expect.metric.removeprefix("ema_")]
    assert abs(number - value) < 0.006
    assert recipe.expect.metric.removeprefix("ema_") == primary_metric_of(recipe).name
    assert recipe.expect.evaluations == 1 or str(recipe.evaluate_every) == "1ep", (
        "a median is taken over the last epochs"
    )
    rows = [row for name in FIGURES for row in seen(name)]
    batch = str(recipe.batch_size)
    found = [row for row in rows if row.get("metric") in kinds and row["batch_size"] == batch]
    near = [row for row in found if abs(float(row["value"]) - kinds[row["metric"]]) < 0.006]
    assert near, f"no row at batch {batch} has {value} or {accuracy}"


def test_a_figure_without_numbers_says_what_would_reproduce_it():
    """Every recipe of such a figure, or of a table whose numbers were not at hand, has a finding, or is the
    reference of one.
    """
    recipes = {f"{path.parent.name}/{path.stem}": (path, load(path)["recipe"]) for path in FILES}
    findings = {name: recipe.finding for name, (_, recipe) in recipes.items() if recipe.finding}
    references = {each.reference for each in findings.values() if isinstance(each, Difference)}
    assert references <= set(recipes) and len(findings) >= 20
    for name, (path, _) in recipes.items():
        published = contract_field(ast.get_docstring(ast.parse(path.read_text())), "Published")
        if re.search("without numbers|its figures were not at hand", published):
            assert name in {*findings, *references}, name


BEST_BATCHES = (
    "small_resnet8 small_resnet32 small_alexnet small_alexnet_bn resnet50_small_batch resnet50_ghost_bn"
)


@pytest.mark.parametrize("name", BEST_BATCHES.split())
def test_the_best_batches_are_those_of_masters_and_luschi(name):
    finding = load(named(name))["recipe"].finding
    figure = finding.source.rpartition(", ")[2]
    ends = {
        row["metric"]: int(row["value"])
        for row in seen("masters2018")
        if row["location"].endswith(f"/ {figure}") and row["metric"].startswith("best_batch")
    }
    assert (ends.get("best_batch_min", 1), ends["best_batch_max"]) == (finding.low, finding.high)


@every_recipe
def test_a_recipe_has_one_metric_and_its_peak_rate_in_a_comment(path):
    text, recipe = path.read_text(), load(path)["recipe"]
    others = {"mask AP", "box AP", "top-1 error", "top-1 accuracy"} - {primary_metric_of(recipe).label}
    assert not any(other in text for other in others)
    (written,) = re.findall(r"^# Peak learning rate (\S+)\.\nrecipe = ", text, re.M)
    assert written == f"{peak_lr(recipe):.4g}"


TRUST_RATIO = (
    "trust_coefficient trust_clip larc_clip clip_value momentum_scaling bias_correction no_trust_ratio"
)
NOT_OF = {
    "sgd": "eps beta1 beta2 " + TRUST_RATIO,
    "lars": "beta1 beta2 bias_correction",
    "lamb": "momentum nesterov trust_coefficient larc_clip clip_value momentum_scaling",
    "adamw": "momentum nesterov " + TRUST_RATIO,
    "nadamw": "momentum nesterov " + TRUST_RATIO,
    "muon": TRUST_RATIO,
}
"""Keys of optimizer that an update rule does not read."""


def without_effect(recipe: Recipe) -> list[str]:
    """Keys that do nothing beside the other values of this recipe."""
    rate = recipe.schedule
    keys = [f"optimizer.{key}" for key in NOT_OF[recipe.optimizer.name].split()]
    keys += ["schedule.milestones", "schedule.factor"] if rate.decay != "step" else []
    keys += ["schedule.end_lr", "schedule.decay_until"] if rate.decay not in ("poly", "cosine") else []
    keys += ["schedule.power"] if rate.decay != "poly" else []
    keys += ["schedule.decay_from"] if rate.decay not in ("poly", "cosine") or not rate.warmup else []
    if not rate.warmup:
        keys += [f"schedule.warmup_{key}" for key in ("start_lr", "start_share", "rule", "form")]
    keys += ["absa.every", "absa.patience"] if not recipe.absa.max_batch_size else []
    keys += ["schedule.table"] if rate.rule != "table" else []
    return keys


@every_recipe
def test_no_value_is_inherited_that_does_nothing(path):
    recipe, defaults = load(path)["recipe"], Recipe()
    inherited = [
        key for key in without_effect(recipe) if attrgetter(key)(recipe) != attrgetter(key)(defaults)
    ]
    assert inherited == [], "set them to their defaults, as the recipe's parent had them"


@every_recipe
def test_what_a_contract_says_of_further_arms_can_be_typed(path):
    """Each `key=value` of the docstring is a key of the recipe and a value that it takes, and the arm can be
    planned.
    """
    doc = ast.get_docstring(ast.parse(path.read_text())).partition("\nPublished")[0]
    found = re.findall(r"(?:^|[\s(])([a-z_0-9.]+=(?:\{[^}]*\}|\S+))", doc)
    recipe = load(path)["recipe"]
    for word in [word.rstrip(".,;:)") for word in found]:
        arm = recipe.with_overrides([word])
        if word.startswith(("model.args", "data.augmentation", "data.name", "duration")):
            make_plan(arm, 1, statistics=counted_once(arm))


def test_importing_all_in_one_process_leaves_each_as_it_was():
    alone = {path.stem: load(path)["recipe"].to_yaml() for path in FILES}
    folders = [str(folder) for folder in {path.parent for path in FILES}]
    sys.path[:0] = folders
    try:
        together = {path.stem: __import__(path.stem) for path in FILES}
        assert len(together) == len(FILES)
        assert {name: module.recipe.to_yaml() for name, module in together.items()} == {
            name: alone[name] for name in together
        }
        assert len({id(module.recipe) for module in together.values()}) == len(together)
        for module in together.values():
            module.recipe.vary(batch_size=1).schedule.milestones.append(Milestone.parse("99ep"))
        assert {name: module.recipe.to_yaml() for name, module in together.items()} == {
            name: alone[name] for name in together
        }
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for path in FILES:
            sys.modules.pop(path.stem, None)


@every_recipe
def test_a_recipe_plans_from_8_to_256_ranks_or_names_what_would_do(path):
    recipe: Recipe = load(path)["recipe"]
    counted = counted_once(recipe)
    for world_size in WORLDS:
        try:
            plan = make_plan(recipe, world_size, engine="deepspeed", statistics=counted)
        except RecipeError as error:
            plan = _after_the_remedy(recipe, world_size, counted, str(error))
        assert (
            plan.split.micro_batch_size * plan.split.accumulation * plan.world_size == plan.recipe.batch_size
        )


def _after_the_remedy(recipe: Recipe, world_size: int, counted, said: str) -> Plan:
    """The plan for the batch that the refusal names, and for the world that it names. A later phase of a
    growing batch may refuse again.
    """
    recipe = recipe.vary(schedule=dict(batch_growth=[]), absa=dict(max_batch_size=0))
    batch = re.search(rf"Nearest valid batch_size on {world_size} ranks?: (\d+)", said)
    world = re.search(r"Nearest valid numbers of ranks for this batch: (\d+)", said)
    assert world, said
    plan = make_plan(recipe, int(world[1]), engine="deepspeed", statistics=counted)
    if not batch:  # a ghost batch of 5,000 images, all of the batch, has no size on 128 ranks
        assert recipe.bn_batch_size % world_size and recipe.bn_batch_size == recipe.batch_size
        return plan
    return make_plan(
        recipe.vary(batch_size=int(batch[1])), world_size, engine="deepspeed", statistics=counted
    )


def _small(recipe: Recipe) -> list[str]:
    """Overrides that keep a recipe's method and shrink its size. Only resnet50 itself is trained as deep as
    it is.
    """
    words = [
        "duration=3it",
        "log_every=1it",
        "evaluate_every=3it",
        "checkpoint.every=3it",
        "data.workers=0",
        "engine=ddp",
    ]
    if recipe.data.name in ("coco", "openimages"):
        words += [
            "data.name=shapes",
            "data.image_size=64",
            "data.short_edges=",
            "data.max_size=0",
            "data.train_files=",
            "data.validation_files=",
            "data.empty_images=false",
            "max_micro_batch_size=0",
        ]
        ghost = ["bn_batch_size=2"] if recipe.model.batch_norm == "ghost" else []
        return [
            *words,
            "batch_size=2",
            *ghost,
            f"model.args={SMALL_HEADS[recipe.model.detector]}",
            "model.name=resnet18",
        ]
    if recipe.data.name in ("digits", "shapes"):
        return words
    words += ["batch_size=40", "bn_batch_size=8"] if recipe.batch_size > 40 else []
    if recipe.schedule.rule == "table":
        words.append("schedule.table=40:0.001")
    if recipe.model.name in ("airbench94", "keskar_c2"):  # too deep for digits
        words += ["data.name=synthetic", "data.image_size=32", "data.augmentation=none"]
        return [*words, "schedule.end_lr=0"]  # which does not follow the batch
    if recipe.data.name != "imagenet":
        words += ["data.mean=", "data.std="]
        words += ["model.args.side=8"] if recipe.model.name in ("keskar_f1", "keskar_f2") else []
        return [*words, "data.name=digits", "data.train_examples=0", "data.augmentation=none"]
    words += [
        "data.name=synthetic",
        f"data.image_size={64 if recipe.model.name.startswith('alexnet') else 32}",
        "data.augmentation=none",
    ]
    if recipe.schedule.image_sizes:
        words.append("schedule.image_sizes=0ep:24,1it:32")
    if recipe.model.name.startswith("alexnet"):
        words.append("model.args={hidden: 64}")
    if recipe.model.name.startswith("deit"):
        words.append("model.args={img_size: 32, depth: 2, embed_dim: 48, num_heads: 3}")
    if recipe.model.name.startswith("resnet") and recipe != load(named("resnet50"))["recipe"]:
        words.append("model.args={layers: [1, 1, 1, 1]}")
    return words


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in KNOWN else pytest.mark.slow, id=path.stem)
        for path in FILES
        if path.stem in TRAINED or not path.stem.startswith(MODERN)
    ],
)
def test_three_real_steps(path, tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    recipe = load(path)["recipe"]
    try:
        main(recipe, [*_small(recipe), f"run_dir={tmp_path / 'run'}"])
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    layerwise = recipe.optimizer.name in ("lars", "lamb")
    expected = [("train", 1), ("train", 2), ("train", 3), ("eval", 3)] + [("trust", 3)] * layerwise
    assert [(row["kind"], row["step"]) for row in rows] == expected
    assert all(0 < row["loss"] < 20 for row in rows if row["kind"] == "train")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["expectation"] or {}).get("outcome") == ("not comparable" if recipe.expect else None)


def test_a_variant_is_found_from_any_folder(tmp_path):
    """`from resnet50 import recipe` must not need the recipes' folder as working directory."""
    command = [sys.executable, str(FOLDER / "imagenet/resnet50_8k.py"), "plan_for=256"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^peak learning rate +3\.2$", done.stdout, re.M)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_folder_has_a_fresh_table(folder):
    files = [path for path in FILES if path.parent == folder]
    text = (folder / "README.md").read_text()
    assert text == page(folder), "python -m tools.catalogue"
    assert len(files) == len(re.findall(r"^\| \[", text, re.M)) >= 2
    assert all(f"[{path.stem}]({path.name})" in text for path in files)
    shown = [re.sub(r"\]\([^)]*\)", "]", line) for line in text.splitlines()]
    assert max(map(len, shown)) <= 100
    measured = ["±" in line.split("|")[3] or "diverged" in line for line in text.splitlines() if "](" in line]
    assert measured == sorted(measured, reverse=True), "those that were measured come first"


def test_the_list_of_folders_is_fresh():
    assert {path.parent for path in FILES} == set(FOLDERS)
    assert (FOLDER / "README.md").read_text() == contents(), "python -m tools.catalogue"
    assert all(f"[{folder.name}]({folder.name}/README.md)" in contents() for folder in FOLDERS)


def test_the_readme_lists_what_was_measured():
    text = README.read_text()
    assert text == readme(text), "python -m tools.catalogue"
    assert "| top-1 error 19.90 ± 0.06 % |" in text and "| mask AP 27.85 ± 2.03 % |" in text


def test_a_table_sees_a_new_recipe_and_a_changed_one(tmp_path):
    text = (FOLDER / "digits/digits.py").read_text()
    (tmp_path / "digits.py").write_text(text.replace("batch_size=32,", "batch_size=48,"))
    (tmp_path / "new.py").write_text(text.replace("ResNet-8 on", "Another on"))
    small = page(tmp_path)
    assert "[digits](digits.py)" in small and "| 48 |" in small and "[new](new.py)" in small
