"""docs/mistakes.md: every line of it, typed."""

import re
from pathlib import Path

import pytest
import torch.distributed as dist

from lbtrain import Recipe, main

PAGE = Path(__file__).parents[2] / "docs/mistakes.md"
ROWS = re.findall(r"^\| `(.+?)` \| (\d) \| (.+?)(?: \.\.\.)? \|$", PAGE.read_text(), re.M)
RECIPE = Recipe().vary(duration="2it", model=dict(name="cifar_resnet8"), batch_size=64, bn_batch_size=8)


def test_there_are_forty():
    assert len(ROWS) >= 40 and len(ROWS) == PAGE.read_text().count("\n| `")


@pytest.mark.parametrize(("words", "code", "message"), ROWS, ids=[words for words, *_ in ROWS])
def test_a_mistake_is_one_message(tmp_path, monkeypatch, capsys, words, code, message):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CROSS_RANK", "LBTRAIN_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("notes.txt").write_text("Buy milk.\n")
    typed = [words] if words.startswith(("batch_size ", "model.args={")) else words.split()
    try:
        with pytest.raises(SystemExit) as ended:
            main(RECIPE, typed)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    said = capsys.readouterr().err
    assert ended.value.code == int(code)
    assert said.startswith(f"error: {message}") and said.count("error:") == 1 and "Traceback" not in said
    assert not list(tmp_path.rglob("metrics.jsonl")), "nothing was started"
