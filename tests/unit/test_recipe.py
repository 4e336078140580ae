"""A recipe holds exactly what was asked for, or RecipeError says what cannot be."""

import copy
import os
import re
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbtrain.errors import RecipeError
from lbtrain.recipe import Recipe, keys, written
from lbtrain.recipe.durations import Duration, Milestone, TableEntry
from lbtrain.recipe.files import load_recipe, shipped
from lbtrain.recipe.tree import plain

KEYS = dict(keys())


def milestones(*texts: str) -> list[Milestone]:
    return [Milestone.parse(text) for text in texts]


def value_of(recipe: Recipe, key: str):
    for part in key.split("."):
        recipe = getattr(recipe, part)
    return recipe


def from_yaml(text: str) -> Recipe:
    return Recipe.from_yaml(text)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("batch_size=512", 512),
        ("batch_size=+512", 512),
        ("batch_size=010", 10),
        ("schedule.base_lr=3.2", 3.2),
        ("schedule.base_lr=1e-3", 1e-3),
        ("schedule.base_lr=3", 3.0),
        ("optimizer.nesterov=true", True),
        ("optimizer.nesterov=False", False),
        ("schedule.warmup_start_lr=null", None),
        ("schedule.warmup_start_lr=none", None),
        ("schedule.warmup_start_lr=0.1", 0.1),
        ("schedule.milestones=10ep,0.5dur", milestones("10ep", "0.5dur")),
        ("schedule.milestones=[10ep, 0.5dur]", milestones("10ep", "0.5dur")),
        ("schedule.milestones=60ep,120ep:0.32", milestones("60ep", "120ep:0.32")),
        ("schedule.milestones=", []),
        ("optimizer.no_decay=[]", []),
        ("optimizer.no_decay=norm,head.*", ["norm", "head.*"]),
        (
            "model.args={drop_rate: 0.1, norm: null, deep: {a: [1, x]}}",
            {"drop_rate": 0.1, "norm": None, "deep": {"a": [1, "x"]}},
        ),
        ("model.args={}", {}),
        ("model.args={a: &x 1, b: *x}", {"a": 1, "b": 1}),
        (
            "model.args={a: 010, b: yes, c: 1_0, d: 1:30, e: 0x10, f: '3', g: 1e3}",
            {"a": 10, "b": "yes", "c": "1_0", "d": "1:30", "e": "0x10", "f": "3", "g": 1000.0},
        ),
        ("model.args.img_size=64", {"img_size": 64}),
        ("model.args.img_size=64,32", {"img_size": [64, 32]}),
        ("model.args.a.b=[1, x]", {"a": {"b": [1, "x"]}}),
        ("model.args.act='1,2'", {"act": "1,2"}),
        ("model.args.zero_init_last=False", {"zero_init_last": False}),
        ("model.args.a=True,False,None,none", {"a": [True, False, None, "none"]}),
        ("model.args={a: None, b: 'None', c: True}", {"a": None, "b": "None", "c": True}),
        ("schedule.warmup_start_lr=None", None),
        ("model.args.act=relu", {"act": "relu"}),
        ("model.args={true: 1, 3: x}", {"true": 1, "3": "x"}),
        ("data.root=/a b/c=d#e: {f}, [g] 'h' \"i\" $j é", "/a b/c=d#e: {f}, [g] 'h' \"i\" $j é"),
        ("data.root=null", "null"),
        ("data.root=3", "3"),
        ("data.root= x ", " x "),
        ("data.root=~/data", str(Path.home() / "data")),
        ("data.root=~nobody-of-that-name/data", "~nobody-of-that-name/data"),
        ("run_dir=~", str(Path.home())),
        ("run_dir=a~b", "a~b"),
        ("run_dir=1e3", "1e3"),
        ("schedule.warmup=1.10ep", Duration.parse("1.1ep")),
        ("schedule.table=64:1e-2,512:4", [TableEntry(64, 0.01), TableEntry(512, 4.0)]),
    ],
)
def test_an_override_is_the_value_written_and_survives_yaml(word, expected):
    recipe = Recipe().with_overrides([word])
    value = value_of(recipe, re.sub(r"^(model\.args)\..*", r"\1", word.partition("=")[0]))
    assert value == expected and type(value) is type(expected)
    assert from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("batch_size", "'batch_size' is not an override. Write key=value"),
        ("--batch_size=3", "'--batch_size' is not a key of a recipe: did you mean batch_size?"),
        ("=3", "'' is not a key"),
        ("momentum=0.9", "'momentum' is not a key of a recipe: did you mean optimizer.momentum?"),
        ("optimizer.momentun=0.9", "did you mean optimizer.momentum?"),
        ("batchsize=3", "did you mean batch_size?"),
        ("epochs=3", "did you mean duration=3ep?"),
        ("epochs=90ep", "did you mean duration=90ep?"),
        ("epochs=many", "did you mean duration?"),
        ("opt=adam", "did you mean optimizer.name?"),
        ("max_steps=500", "did you mean duration=500it?"),
        ("lr=0.1", "did you mean schedule.base_lr=0.1?"),
        ("model.args.a=", "model.args.a takes text, a number"),
        ("model.args.a={b: 1", "model.args.a takes text, a number"),
        ("model.args.a=1,,2", "model.args.a takes text, a number"),
        ("model=resnet50", "model is a group of keys. Set one of model.name, model.args, model.head_std"),
        ("batch_size.x=3", "did you mean batch_size?"),
        (
            "data.short_edges=640,800px",
            "data.short_edges=800px: data.short_edges takes whole numbers of pixels",
        ),
        ("data.short_edges=-640", "data.short_edges=-640: data.short_edges takes whole numbers of pixels"),
        ("data.short_edges=0", "data.short_edges=0: data.short_edges takes whole numbers of pixels"),
        ("data.std=0.2,0.0,0.2", "data.std=0.0: the pixels are divided by data.std, which must be above 0"),
        ("batch_size=0", "batch_size=0: batch_size must be at least 1"),
        ("batch_size=1e3", "batch_size takes a whole number"),
        ("batch_size=5.0", "batch_size takes a whole number"),
        ("batch_size=", "batch_size takes a whole number"),
        ("batch_size=1_0", "batch_size takes a whole number"),
        ("batch_size= 3", "batch_size takes a whole number"),
        ("batch_size=3\n", "batch_size takes a whole number"),
        ("batch_size=٣", "batch_size takes a whole number"),
        ("batch_size=" + "9" * 30, "below 2**63"),
        ("batch_size=" + "9" * 5000, "batch_size takes a whole number"),
        ("seed=2147483648", "seed must be below 2147483648"),
        ("seed=-1", "seed must be at least 0"),
        ("schedule.base_lr=1e400", "takes a finite number"),
        ("schedule.base_lr=nan", "takes a number"),
        ("schedule.base_lr=infinity", "takes a number"),
        ("schedule.base_lr=1_0", "takes a number"),
        ("schedule.base_lr=-0.1", "schedule.base_lr must be at least 0"),
        ("schedule.factor=0", "schedule.factor must be above 0"),
        ("schedule.factor=1.1", "schedule.factor must be at most 1"),
        ("optimizer.momentum=1", "optimizer.momentum must be below 1"),
        ("optimizer.nesterov=1", "optimizer.nesterov takes true or false"),
        ("schedule.warmup_start_lr=fast", "takes a number"),
        ("schedule.warmup=5", "schedule.warmup=5: a duration carries its unit. Write 5ep"),
        ("schedule.warmup=5 ep", "a duration carries its unit"),
        ("schedule.warmup=٣ep", "a duration carries its unit"),
        ("schedule.warmup=-1ep", "a duration carries its unit"),
        ("schedule.warmup=1.5dur", "at most 1dur"),
        ("schedule.warmup=" + "9" * 400 + "ep", "a duration carries its unit"),
        ("schedule.milestones=30ep,60", "schedule.milestones=60: a duration carries its unit"),
        ("schedule.milestones=30ep:", "a milestone is a duration"),
        ("schedule.milestones=30ep:1.5", "a milestone is a duration"),
        ("schedule.milestones=30ep:0", "a milestone is a duration"),
        ("schedule.milestones=30ep:-0.1", "a milestone is a duration"),
        ("schedule.milestones=30:0.1", "a duration carries its unit"),
        ("schedule.milestones=30ep,,60ep", "takes a list such as a,b,c"),
        ("schedule.milestones=[30ep", "takes a list such as a,b,c"),
        ("data.name=Digits", "data.name is one of digits, mnist"),
        ("data.name=cifar", "Did you mean cifar10?"),
        ("deepspeed.zero_stage=4", "one of 0, 1, 2, 3"),
        ("model.args=drop_rate", "takes {key: value, ...}"),
        ("model.args={a: 1", "takes {key: value, ...}"),
        ("model.args={a: 1} b", "takes {key: value, ...}"),
        ("model.args={a: 1, a: 2}", "takes {key: value, ...}"),
        ("model.args={a}", "takes {key: value, ...}"),
        ("model.args={[1]: 2}", "takes {key: value, ...}"),
        ("model.args={a: !!binary aGk=}", "takes {key: value, ...}"),
        ("model.args=&x {a: *x}", "takes {key: value, ...}"),
        ("model.args={a: &x {b: *x}}", "takes {key: value, ...}"),
        ("model.args={a: 1e999}", "takes a finite number"),
        ("run_dir=???", "interpolation is not supported"),
        ("run_dir=${oc.env:HOME}", "interpolation is not supported"),
        ("optimizer.no_decay=???", "interpolation is not supported"),
        ("model.args={a: '${b}'}", "interpolation is not supported"),
        ("run_dir=a\nb", "cannot be printed"),
        ("run_dir=\udcff", "cannot be printed"),
    ],
)
def test_what_cannot_be_is_rejected_with_key_value_and_remedy(word, said):
    with pytest.raises(RecipeError) as caught:
        Recipe().with_overrides([word])
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_written_of_a_shipped_recipe_is_read_as_the_same_value():
    for path in shipped().values():
        recipe = load_recipe(path)
        assert recipe.with_overrides([f"{key}={written(recipe, key)}" for key in KEYS]) == recipe, path


@pytest.mark.parametrize(
    "args", [{"a": [False, None, 1e-05, {"b": "x, y"}]}, {"on": "None", "1": "1"}, {"a": "{b: 1}", "é": 1e20}]
)
def test_arguments_are_written_as_they_are_read(args):
    recipe = Recipe().vary(model=dict(args=args))
    assert Recipe().with_overrides([f"model.args={written(recipe, 'model.args')}"]) == recipe


def test_later_words_win():
    assert Recipe().with_overrides(["batch_size=8", "batch_size=16"]).batch_size == 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(batch_size=True), "takes a whole number"),
        (dict(batch_size="8"), "takes a whole number"),
        (dict(batch_size=8.0), "takes a whole number"),
        (dict(batch_size=10**400), "below 2**63"),
        (dict(schedule=dict(base_lr=10**400)), "takes a number"),
        (dict(schedule=None), "schedule is a group of keys: give a dict"),
        (dict(schedule=dict(milestones=("1ep",))), "takes a list"),
        (dict(schedule=dict(milestones=[1])), "takes a list"),
        (dict(schedule=dict(mile_stones=[])), "did you mean schedule.milestones?"),
        (dict(momentun=0.9), "did you mean optimizer.momentum?"),
        (dict(model=dict(args={1: 2})), "names of arguments are text"),
        (dict(model=dict(args={"a": object})), "is a type. Write"),
        (dict(model=dict(args={"a": float("nan")})), "finite"),
        (dict(run_dir="${x}"), "interpolation"),
        (dict(run_dir=None), "takes text"),
    ],
)
def test_vary_rejects_likewise(changes, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        Recipe().vary(**changes)


@pytest.mark.parametrize(
    ("path", "name", "said"),
    [
        ("", "batchsize", "'batchsize' is not a key of a recipe: did you mean batch_size?"),
        ("", "batch_size", "batch_size is assigned, and nothing would check its value"),
        ("", "optimizer", "optimizer is assigned"),
        ("optimizer", "momentun", "did you mean momentum?"),
        ("schedule", "warmup", "Write recipe.vary(...)"),
        ("checkpoint", "every", "Write recipe.vary(...)"),
    ],
)
def test_nothing_is_assigned_to_a_recipe(path, name, said):
    recipe = Recipe()
    before = copy.deepcopy(recipe)
    with pytest.raises(RecipeError, match=re.escape(said)):
        setattr(getattr(recipe, path) if path else recipe, name, 3)
    assert recipe == before


def test_vary_leaves_the_parent_and_its_arguments_alone():
    args, milestones = {"a": {"b": [1]}}, ["1ep"]
    parent = Recipe().vary(model=dict(args=args), schedule=dict(milestones=milestones))
    before = copy.deepcopy(parent)
    child = parent.vary(batch_size=7, model=dict(name="x"), schedule=dict(base_lr=1.0))
    child.model.args["a"]["b"].append(2)
    child.schedule.milestones.append(Milestone.parse("2ep"))
    child.optimizer.no_decay.clear()
    assert parent == before
    assert (args, milestones) == ({"a": {"b": [1]}}, ["1ep"])
    given = parent.vary(model=dict(args=args))
    args["a"]["b"].append(3)
    assert given.model.args == {"a": {"b": [1]}}
    assert (child.batch_size, child.model.name, child.schedule.base_lr) == (7, "x", 1.0)


def test_vary_changes_what_it_names_and_nothing_else():
    parent = Recipe().vary(model=dict(args={"a": 1}), optimizer=dict(momentum=0.5))
    child = parent.vary(optimizer=dict(nesterov=True))
    changed = {key for key in KEYS if value_of(child, key) != value_of(parent, key)}
    assert changed == {"optimizer.nesterov"}


def test_a_dotted_name_is_rejected_with_the_dict_to_write():
    with pytest.raises(
        RecipeError, match=r"schedule.base_lr: give .* as a dict, schedule=dict\(base_lr=0.5\)"
    ):
        Recipe().vary(**{"schedule.base_lr": 0.5})
    with pytest.raises(RecipeError, match=r"did you mean schedule.base_lr\?"):
        Recipe().vary(**{"schedule.base_lrr": 0.5})


def test_what_acts_no_longer_returns_to_its_default_and_so_does_what_needs_it():
    parent = Recipe().vary(data=dict(random_erasing=0.2, erasing_mode="pixel"), loss=dict(mixup=0.2))
    parent = parent.vary(loss=dict(cutmix=1.0, cutmix_share=0.3))
    child = parent.vary(model=dict(library="torchvision"))
    assert child == Recipe().vary(model=dict(library="torchvision"))


def test_arguments_of_a_model_are_replaced_whole():
    parent = Recipe().vary(model=dict(args={"a": 1}))
    assert parent.with_overrides(["model.args={b: 2}"]).model.args == {"b": 2}
    assert parent.with_overrides(["model.args={}"]).model.args == {}


def test_defaults_are_not_shared_between_recipes():
    first = Recipe()
    first.schedule.milestones.append(Milestone.parse("99ep"))
    first.model.args["a"] = 1
    first.optimizer.no_decay.append("head.*")
    assert (Recipe().schedule.milestones, Recipe().model.args, Recipe().optimizer.no_decay) == (
        milestones("30ep", "60ep", "80ep"),
        {},
        ["norm", "bias"],
    )


def test_every_key_is_documented_and_its_default_is_a_value_it_takes():
    assert len(KEYS) > 40
    for key, spec in KEYS.items():
        assert re.fullmatch(r"[A-Za-z].{8,}\.", spec.metadata["help"], re.DOTALL), (
            f"{key}: not a whole sentence"
        )
    assert Recipe().vary(**plain(Recipe())) == Recipe()


def test_none_is_a_text_without_quotes_in_the_files_of_runs():
    """It is a choice of some keys, and no null: an earlier version wrote it so too."""
    written = Recipe().to_yaml()
    assert "group_by: none\n" in written and from_yaml(written).data.group_by == "none"


def test_yaml_holds_every_key():
    loaded = yaml.safe_load(Recipe().to_yaml())
    for key in KEYS:
        branch = loaded
        for part in key.split("."):
            assert part in branch, key
            branch = branch[part]


AWKWARD = [
    "1_0",
    " 3",
    "3 ",
    "٣",
    "\uff11\uff12",
    "9" * 40,
    "9" * 5000,
    "1e400",
    "-1e400",
    "1e-400",
    "-0",
    "+7",
    "nan",
    "inf",
    "None",
    "null",
    "none",
    "",
    "true",
    "TRUE",
    "yes",
    "???",
    "${x}",
    "{a: 1}",
    "{a: &x 1, b: *x}",
    "{a: [1, {b: c}]}",
    "{",
    "[]",
    "[1ep",
    "1ep,2ep",
    ",",
    "5ep",
    "0.5dur",
    "2dur",
    "1.it",
    "64",
    "0.1",
    "a=b",
    "\x00",
    "\udcff",
    "\x85",
    "linear",
    "sgd",
    "norm,bias",
    "{<<: {a: 1}}",
    "- a",
    "a: b",
    "#",
    "!!int 3",
]
NAMES = st.one_of(st.sampled_from(sorted(KEYS)), st.text(string.ascii_lowercase + "._=", max_size=12))
TEXTS = st.one_of(
    st.sampled_from(AWKWARD), st.text(max_size=12), st.integers().map(str), st.floats().map(repr)
)


def check_word(word: str) -> None:
    name, _, text = word.partition("=")
    try:
        recipe = Recipe().with_overrides([word])
    except RecipeError as error:
        assert error.exit_code == 2
        return
    kind = str(KEYS[name].type)
    value = value_of(recipe, name)
    if "int" in kind:
        assert text.lstrip("+").isascii() and value == int(text) and re.fullmatch(r"[+-]?\d+", text)
    elif "float" in kind:
        assert (value is None and text.lower() in ("null", "none")) or (
            value == float(text) and not set(text) & set("_ \n\t")
        )
    elif kind == "<class 'bool'>":
        assert str(value).lower() == text.lower()
    elif kind == "<class 'str'>":
        assert value == (os.path.expanduser(text) if KEYS[name].metadata.get("path") else text)
    elif kind.startswith("list"):
        texts = re.sub(r"\s*,\s*", ",", text.strip().removeprefix("[").removesuffix("]").strip()).split(",")
        read = getattr(KEYS[name].type.__args__[0], "parse", str)
        assert value == [read(each) for each in texts if each]
    elif kind.endswith("Duration'>"):
        assert value == Duration.parse(text) == Duration.parse(str(value))
    others = {key for key in KEYS if key != name and value_of(recipe, key) != value_of(Recipe(), key)}
    assert not others
    assert from_yaml(recipe.to_yaml()) == recipe


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(NAMES, TEXTS)
def test_any_word_gives_its_value_or_a_recipe_error(name, text):
    check_word(f"{name}={text}")


@pytest.mark.slow
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(NAMES, TEXTS)
def test_ten_thousand_words(name, text):
    check_word(f"{name}={text}")


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize(
    "key",
    [
        "batch_size",
        "schedule.base_lr",
        "schedule.warmup_start_lr",
        "optimizer.nesterov",
        "run_dir",
        "model.args",
        "schedule.milestones",
        "optimizer.no_decay",
        "schedule.warmup",
        "deepspeed.zero_stage",
    ],
)
def test_awkward_values_of_every_type(key, text):
    check_word(f"{key}={text}")
