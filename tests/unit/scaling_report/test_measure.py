"""measure: command lines of each launcher, a failing and a late point, resume, and the arithmetic of a
row.
"""

import argparse
import contextlib
import dataclasses
import errno
import itertools
import json
import sys
import time
from pathlib import Path

import pytest

from lbtrain import Recipe
from lbtrain.errors import LaunchError, SaveFailed
from lbtrain.launch.hostfile import Hostfile
from lbtrain.plan import precision
from lbtrain.recipe.files import load_recipe
from tools.scaling_report.__main__ import main
from tools.scaling_report.measuring.launchers import LAUNCHERS, commands, run_together
from tools.scaling_report.measuring.origin import origin
from tools.scaling_report.measuring.study import Point, Study
from tools.scaling_report.measuring.timings import RankTimes, read_ranks, summarize
from tools.scaling_report.report import OwnTimes, Report, ReportError, Row, load, with_data_wait

ONE_HOST = Hostfile(("localhost",), 1)
FOUR_HOSTS = Hostfile(("a", "b", "c", "d"), 2)
RECIPE = Recipe().vary(model=dict(name="cifar_resnet8"), bn_batch_size=8, batch_size=64)
HOSTS = Hostfile(("node01", "node02"), 8)
ROOT = Path(__file__).parents[3]


def _commands(launcher: str, hosts: Hostfile = HOSTS) -> list[list[str]]:
    return commands(launcher, hosts, ["x.py", "a b"], hostfile=Path("H"), port=29501, timeout_s=60)  # type: ignore[arg-type]


def test_deepspeed_is_started_once_with_the_hostfile() -> None:
    assert _commands("deepspeed") == [
        ["deepspeed", "--hostfile", "H", "--launcher", "pdsh", "--master_port", "29501", "x.py", "a b"]
    ]


def test_this_machine_alone_needs_no_ssh() -> None:
    words = ["--num_accelerators", "2", "--master_port", "29501", "x.py", "a b"]
    assert _commands("deepspeed", Hostfile(("localhost",), 2)) == [["deepspeed", *words]]


def test_one_far_host_is_not_run_here() -> None:
    assert "--force_multi" in _commands("deepspeed", Hostfile(("node07",), 8))[0]


@pytest.mark.parametrize(
    ("launcher", "rank_flag"), [("torchrun", "--node_rank=1"), ("accelerate", "--machine_rank=1")]
)
def test_torchrun_and_accelerate_are_started_on_every_host(launcher: str, rank_flag: str) -> None:
    first, second = _commands(launcher)
    assert first[:4] == ["ssh", "-o", "BatchMode=yes", "node01"]
    assert second[3] == "node02"
    assert rank_flag in second[4]
    assert "timeout --kill-after=10 60" in second[4]
    assert "'a b'" in second[4]  # quoted for the far shell


def test_slurm_maps_its_names_to_torchruns() -> None:
    (command,) = _commands("slurm")
    assert command[:4] == ["srun", "--kill-on-bad-exit=1", "--nodes=2", "--ntasks-per-node=8"]
    assert (
        "RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID MASTER_ADDR=node01"
        in command[-1]
    )


def test_colossalai_is_started_once_and_words_that_a_shell_would_change_are_rejected() -> None:
    def of(hosts: Hostfile, *words: str) -> list[list[str]]:
        return commands("colossalai", hosts, ["x.py", *words], hostfile=Path("H"), port=29501, timeout_s=60)

    cluster = ["--hostfile", "H", "--master_addr", "node01"]
    assert of(HOSTS, "a=b") == [
        ["colossalai", "run", *cluster, "--nproc_per_node", "8", "--master_port", "29501", "x.py", "a=b"]
    ]
    assert of(Hostfile(("localhost",), 2)) == [
        ["colossalai", "run", "--nproc_per_node", "2", "--master_port", "29501", "x.py"]
    ]
    with pytest.raises(LaunchError, match="hand this to a shell"):
        of(HOSTS, "a b")


def test_every_launcher_has_a_command() -> None:
    assert len(LAUNCHERS) == 5
    for launcher in LAUNCHERS:
        assert commands(launcher, HOSTS, ["x.py"], hostfile=Path("H"), port=29501, timeout_s=60)


def test_a_failure_ends_the_others_and_a_late_one_is_timed_out(tmp_path: Path) -> None:
    start = time.monotonic()
    assert (
        run_together([["sh", "-c", "exit 7"], ["sleep", "60"]], tmp_path / "log", timeout_s=30)
        == "exit code 7"
    )
    assert run_together([["sleep", "60"]], tmp_path / "log", timeout_s=1) == "timed out after 1 s"
    assert run_together([["true"]], tmp_path / "log", timeout_s=30) == "ok"
    assert (
        run_together([["srun-of-nowhere"]], tmp_path / "log", timeout_s=30)
        == "there is no program srun-of-nowhere here"
    )
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("code", [0, 7])
def test_what_a_launcher_leaves_behind_is_ended(code: int, tmp_path: Path) -> None:
    log, started = tmp_path / "log", f"sleep 60 & echo $!; exit {code}"
    run_together([["sh", "-c", started]], log, timeout_s=30)
    state, late = Path("/proc", log.read_text().strip(), "stat"), time.monotonic() + 10
    with contextlib.suppress(OSError):  # it is gone
        while ") Z " not in state.read_text():  # or a zombie, where nobody reaps it
            assert time.monotonic() < late, "it runs on"
            time.sleep(0.01)


def _ranks(own: list[float], *, step: float, wait: float = 0.01) -> list[RankTimes]:
    steps = [
        [{"step_s": step, "own_s": seconds, "optimizer_s": 0.02, "wait_s": wait}] * 20 for seconds in own
    ]
    return [RankTimes(rank, f"node0{rank + 1}", each, None) for rank, each in enumerate(steps)]


def test_a_row_by_hand() -> None:
    row = Row(gpus=2, nodes=2, global_batch=64, per_gpu_batch=32)
    found = summarize(row, [_ranks([0.3, 0.4], step=0.64)], _ranks([0.3, 0.4], step=0.5))
    assert found.images_per_s == pytest.approx(100)
    assert found.images_per_s_gpu == pytest.approx(50)
    assert found.exposed_communication_s == pytest.approx(0.14)
    assert (found.slowest_rank, found.slowest_host) == (1, "node02")
    assert found.rank_spread == pytest.approx(0.1 / 0.35)
    assert found.compute_s == 0.4
    assert found.loader_wait_s == 0.01
    assert found.data_wait_s is None  # needs the same point with the other data
    assert found.jitter == pytest.approx(0.05 / 0.35)
    assert found.straggler_wait_s == pytest.approx(0.05)


def test_a_sharded_row_counts_a_ranks_share_of_the_optimizer() -> None:
    row = Row(gpus=4, nodes=1, global_batch=64, zero_stage=1)
    found = summarize(row, [_ranks([0.4] * 4, step=0.64)], _ranks([0.4] * 4, step=0.5))
    assert found.optimizer_s == pytest.approx(0.02 / 4)
    assert found.exposed_communication_s == pytest.approx(0.64 - (0.5 - 0.02 * 3 / 4))


def test_images_are_counted_over_the_time_of_all_steps() -> None:
    """15 steps make blocks of one and of two: the interval's blocks are not what the rate is a mean of."""
    (rank,) = _ranks([0.05], step=0.1)
    rank.steps[14:] = [rank.steps[0] | {"step_s": 0.4}]
    found = summarize(Row(gpus=1, nodes=1, global_batch=512), [[rank]], [rank])
    assert found.images_per_s == pytest.approx(15 * 512 / 1.8)
    assert found.images_per_s_gpu_low is not None
    assert found.images_per_s_gpu_low < found.images_per_s


def test_ranks_that_are_slow_in_turn_have_no_spread_and_still_wait_for_each_other() -> None:
    ranks = _ranks([0.3, 0.3], step=0.5)
    for rank in ranks:
        rank.steps[:] = [
            step | {"own_s": 0.4 if number % 2 == rank.rank else 0.3}
            for number, step in enumerate(rank.steps)
        ]
    found = summarize(
        Row(gpus=2, nodes=1, global_batch=64, per_gpu_batch=32), [_ranks([0.3, 0.3], step=0.5)], ranks
    )
    assert found.rank_spread == pytest.approx(0)
    assert found.straggler_wait_s == pytest.approx(0.05)


def test_warmup_is_left_out_and_a_silent_rank_is_named(tmp_path: Path) -> None:
    record = {"rank": 0, "host": "node01", "steps": [{"step_s": 9.0}, {"step_s": 1.0}], "buckets": None}
    (tmp_path / "rank0.json").write_text(json.dumps(record))
    assert read_ranks(tmp_path, 1, warmup=1)[0].median("step_s") == 1.0
    with pytest.raises(ValueError, match="rank 1 wrote no times"):
        read_ranks(tmp_path, 2, warmup=1)


def _study(folder: Path, hosts: Hostfile = ONE_HOST, **changes: object) -> Study:
    options = {
        "out": folder,
        "launcher": "torchrun",
        "port": 29500,
        "timeout": 30,
        "per_gpu_batch": None,
        "repeats": 1,
        "zero": None,
        "accumulation": [1],
        "mode": ["weak"],
        "data": ["synthetic"],
        "gpus": [2],
        "collectives": False,
    }
    return Study(argparse.Namespace(**options | changes), hosts, RECIPE)


def test_a_point_that_succeeded_is_kept_and_one_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    said = "print('error: the rank says why', 'ChildFailedError: the launcher adds this', sep='\\n')"
    script.write_text(
        f"import sys, pathlib; pathlib.Path(sys.argv[1], 'ran').touch(); {said}; sys.exit(len(sys.argv) - 2)"
    )
    monkeypatch.setattr(
        "tools.scaling_report.measuring.study.commands",
        lambda launcher, hosts, words, **_: [[sys.executable, *words]],
    )
    study = _study(tmp_path / "out")
    folder, status = study.launch("bad", 1, [str(script), "{folder}", "fail"])
    assert status == "exit code 1: error: the rank says why"
    folder, status = study.launch("bad", 1, [str(script), "{folder}"])
    assert status == "ok"
    (folder / "ran").unlink()
    assert study.launch("bad", 1, [str(script), "{folder}"]) == (folder, "ok")
    assert not (folder / "ran").exists()  # not run again


def test_weak_scaling_keeps_a_gpus_images_and_strong_scaling_a_steps(tmp_path: Path) -> None:
    study = _study(tmp_path, FOUR_HOSTS)
    assert [study.row(gpus, "weak", "real").global_batch for gpus in (2, 4, 8)] == [16, 32, 64]
    assert [study.row(gpus, "strong", "real").per_gpu_batch for gpus in (2, 4, 8)] == [32, 16, 8]
    assert [study.row(2, mode, "real", accumulation=2).per_gpu_batch for mode in ("weak", "strong")] == [
        8,
        16,
    ]


@pytest.mark.parametrize(("native", "computed"), [(True, "bf16"), (False, "fp32")])
def test_a_row_states_the_precision_that_auto_becomes(
    native: bool, computed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "device_with_bf16", lambda: ("this machine", native))
    study = _study(tmp_path, FOUR_HOSTS)
    study.recipe = RECIPE.vary(precision="auto")
    assert study.row(2, "weak", "synthetic").precision == computed


def test_points_are_every_combination_and_the_impossible_are_rejected_unlaunched(tmp_path: Path) -> None:
    study = _study(
        tmp_path,
        FOUR_HOSTS,
        mode=["weak", "strong"],
        zero=[0, 1],
        accumulation=[1, 3],
        gpus=[2, 4],
        launcher="deepspeed",
    )
    rows = study.rows()
    assert len(rows) == 16
    rejected = [row for row in rows if row.status != "ok"]
    assert {(row.mode, row.accumulation) for row in rejected} == {("strong", 3)}  # 64 images in 3 micro-steps
    assert "cannot be split over 2 GPUs in 3 micro-steps" in rejected[0].status
    assert study.time_point(rejected[0]).row == rejected[0]
    assert not (tmp_path / "points").exists()
    assert "rejected" in _study(tmp_path, FOUR_HOSTS, zero=[2]).rows()[0].status  # torchrun cannot shard


def test_detection_is_measured_on_drawn_shapes_where_data_is_synthetic(tmp_path: Path) -> None:
    study = _study(tmp_path, warmup=1, steps=3, recipe=Path("r.py"), overrides=[])
    study.recipe = Recipe().vary(
        model=dict(library="torchvision", name="resnet18"), data=dict(name="coco", image_size=96)
    )
    words = study.words(Row(gpus=1, nodes=1, global_batch=2, per_gpu_batch=2, data="synthetic"), "exchange")
    assert {"data.name=shapes", "data.image_size=96"} <= set(words)


def test_the_documented_study_of_detection_can_be_planned(tmp_path: Path) -> None:
    """Its recipe takes fewer images at once than a ghost batch holds."""
    study = _study(tmp_path, Hostfile(("localhost",), 2), data=["synthetic", "real"])
    study.recipe = load_recipe(ROOT / "recipes/coco/mask_rcnn.py").with_overrides(["data.group_by=size"])
    rows = study.rows()
    assert [(row.data, row.status, row.per_gpu_batch, row.global_batch) for row in rows] == [
        (data, "ok", 2, 4) for data in ("synthetic", "real")
    ]
    assert "--gpus 2 --data real" in (ROOT / "docs/detection.md").read_text()


@pytest.mark.parametrize(("recipe", "waits"), [("coco/mask_rcnn_shapes", False), ("imagenet/resnet50", True)])
def test_detection_has_no_data_wait(
    recipe: str, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes are no photos: the difference of the steps is mostly what they compute."""
    monkeypatch.chdir(ROOT)
    seconds = {"synthetic": 0.3, "real": 0.4}
    monkeypatch.setattr(
        Study, "time_point", lambda study, row: Point(dataclasses.replace(row, step_p50_s=seconds[row.data]))
    )
    words = [
        "measure",
        "--gpus",
        "2",
        "--data",
        "synthetic,real",
        "--hostfile",
        "hostfiles/local",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, f"recipes/{recipe}.py"]) == 0
    found = [row.data_wait_s for row in load(tmp_path / "out/report.json").rows]
    assert found == ([None, pytest.approx(0.1)] if waits else [None, None])


def test_a_sharded_point_is_computed_alone_unsharded(tmp_path: Path) -> None:
    study = _study(
        tmp_path, FOUR_HOSTS, warmup=1, steps=3, recipe=Path("r.py"), overrides=[], launcher="deepspeed"
    )
    row = study.row(4, "weak", "synthetic", stage=2)
    stages = [
        [word for word in study.words(row, run) if "zero_stage" in word][-1]
        for run in ("exchange", "no-exchange")
    ]
    assert stages == ["deepspeed.zero_stage=2", "deepspeed.zero_stage=0"]


def test_data_wait_is_real_minus_synthetic() -> None:
    rows = [Row(gpus=gpus, nodes=1, data=data, step_p50_s=step) for gpus, data, step in (
        (8, "synthetic", 0.3), (8, "real", 0.4), (16, "real", 0.5))]  # fmt: skip
    assert [row.data_wait_s for row in with_data_wait(rows)] == [None, pytest.approx(0.1), None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hostfile", "nowhere", "recipes/digits/digits.py"], "nowhere cannot be read"),
        (["--hostfile", "hostfiles/local", "recipes/nothing.py"], "is neither a file nor a recipe"),
        (["--hostfile", "hostfiles/local", "recipes/digits/digits.py", "batchsize=3"], "did you mean"),
        (
            ["--hostfile", "hostfiles/local", "--data", "synthetic,real", "recipes/digits/digits.py"],
            "have 1 channel(s)",
        ),
        (["--hostfile", "hostfiles/1x8", "recipes/digits/digits.py"], "without splitting a host"),
    ],
)
def test_a_study_that_cannot_be_is_rejected_before_a_launch(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["measure", "--gpus", "2", "--out", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_study_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").touch()
    assert main(["measure", "--gpus", "2", "--out", str(tmp_path), "--hostfile", "h", "recipe.py"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_file_is_no_folder_for_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    out.touch()
    assert main(["measure", "--gpus", "2", "--out", str(out), "--hostfile", "h", "recipe.py"]) == 2
    assert "must be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("data", "status"), [("synthetic", "ok"), ("real", "rejected: ")])
def test_a_study_of_images_that_are_not_here_has_a_report(
    data: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Study, "time_point", lambda study, row: Point(row))
    words = [
        "measure",
        "--gpus",
        "2",
        "--data",
        data,
        "--hostfile",
        "hostfiles/local",
        "--out",
        str(tmp_path),
    ]
    photos = ["data.name=imagefolder", f"data.root={tmp_path}/none"]
    assert main([*words, "recipes/imagenet/resnet50.py", *photos]) == 0
    (row,) = load(tmp_path / "report.json").rows
    assert row.status.startswith(status)


def test_a_run_without_exchange_that_stages_share_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its jitter would look as certain as that of as many runs."""
    monkeypatch.chdir(ROOT)

    def time_point(study: Study, row: Row) -> Point:
        seconds = [0.1 * row.accumulation, 0.2]
        return Point(row, None, [OwnTimes(gpus=2, rank=rank, host="a", own_s=seconds) for rank in range(2)])

    monkeypatch.setattr(Study, "time_point", time_point)
    words = ["measure", "--gpus", "2", "--zero", "0,1,2,3", "--accumulation", "1,2"]
    words += ["--hostfile", "hostfiles/local", "--out", str(tmp_path), "recipes/digits/digits.py"]
    assert main(words) == 0
    times = load(tmp_path / "report.json").own_times
    assert [(each.rank, each.own_s[0]) for each in times] == [(0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2)]


def test_a_full_disk_leaves_the_report_of_the_points_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Study, "time_point", lambda study, row: Point(row))
    words = ["measure", "--gpus", "2", "--resume", "--hostfile", "hostfiles/local", "--out", str(tmp_path)]
    words.append("recipes/imagenet/resnet50.py")
    assert main(words) == 0
    before, calls = load(tmp_path / "report.json"), itertools.count()

    def fsync(_: int) -> None:
        if next(calls):  # the note still finds room
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lbtrain.runs.files.os.fsync", fsync)
    assert main([*words, "--mode", "weak,strong"]) == SaveFailed.exit_code
    assert "report.json could not be written (No space left on device)" in capsys.readouterr().err
    assert load(tmp_path / "report.json") == before


def test_another_study_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {
        "recipe": "recipes/digits/digits.py",
        "overrides": "[]",
        "launcher": "deepspeed",
        "steps": "7",
        "warmup": "5",
        "per_gpu_batch": "None",
        "settings": load_recipe(Path("recipes/digits/digits.py")).to_yaml(),
    }
    note = tmp_path / "study.json"
    note.write_text(json.dumps(asked))
    words = [
        "measure",
        "--gpus",
        "2",
        "--out",
        str(tmp_path),
        "--hostfile",
        "nowhere",
        "recipes/digits/digits.py",
        "--resume",
    ]
    assert main([*words, "--steps", "9"]) == 2
    assert "measured with steps=7, not 9" in capsys.readouterr().err
    assert main([*words, "--steps", "7"]) == 2
    assert "nowhere cannot be read" in capsys.readouterr().err
    note.write_text(json.dumps(asked | {"settings": "of the recipe file as it was"}))
    assert main([*words, "--steps", "7"]) == 2
    assert "digits.py has other settings than when" in capsys.readouterr().err
    note.write_text(json.dumps(asked)[:-9])
    assert main([*words, "--steps", "7"]) == 2
    said = capsys.readouterr().err
    assert "holds no study that this version could go on with (study.json: Unterminated" in said


def _succeed(study: Study, row: Row) -> Point:
    """Stands for the launches of a point: what they leave for a later call."""
    for name, gpus in study.launches([row]).items():
        folder = study.points / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "status").write_text("ok")
        (folder / "hostfile").write_text(study.hosts.subset(gpus).text())
        if not (folder / "origin.json").exists():
            (folder / "origin.json").write_text(json.dumps(origin()))
    return Point(row)


def test_a_point_of_other_hosts_is_not_kept(tmp_path: Path) -> None:
    wide, tall = Hostfile(("a", "b"), 8), Hostfile(("a", "b", "c", "d"), 4)
    study = _study(tmp_path, wide, gpus=[8, 16], hostfile="H")
    rows = study.rows()
    for row in rows:
        _succeed(study, row)
    assert len(study.kept(rows)) == 4
    study.hosts = Hostfile((*wide.names, "c"), 8)
    assert len(study.kept(rows)) == 4
    study.hosts = tall
    with pytest.raises(ReportError, match="weak-synthetic-8-no-exchange was measured on the hosts of"):
        study.kept(rows)


def test_a_resumed_study_names_the_commits_of_all_its_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Study, "time_point", _succeed)
    words = ["measure", "--gpus", "2", "--resume", "--hostfile", "hostfiles/local", "--out", str(tmp_path)]
    found = []
    for commit, data in (("a", "synthetic"), ("b", "synthetic,real"), ("c", "synthetic,real")):
        monkeypatch.setattr("tools.scaling_report.measuring.origin.commit", lambda commit=commit: commit)
        assert main([*words, "--data", data, "recipes/imagenet/resnet50.py"]) == 0
        origin = load(tmp_path / "report.json").provenance
        found.append([each["commit"] for each in (origin, *origin.get("resumed", ()))])
    assert found == [["a"], ["a", "b"], ["a", "b"]]


def test_a_report_that_cannot_be_saved_ends_in_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file/report.json"
    with pytest.raises(SaveFailed, match=f"{path} could not be written"):
        Report().save(path)


def test_a_report_that_a_full_disk_cuts_off_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, path = Report(provenance={"a": 1}), tmp_path / "report.json"
    before.save(path)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lbtrain.runs.files.os.fsync", full)
    with pytest.raises(SaveFailed, match=f"{path} could not be written .No space left on device."):
        Report().save(path)
    assert load(path) == before


def test_a_report_survives_a_round_trip(tmp_path: Path) -> None:
    report = Report(rows=[Row(gpus=1, nodes=1)], provenance={"a": 1})
    report.save(tmp_path / "r.json")
    assert load(tmp_path / "r.json") == report
