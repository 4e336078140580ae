"""Away from a terminal, progress is lines of text with the time that is left."""

from tools.kit.progress import bar


def test_a_line_at_every_tenth(capsys):
    with bar("steps", 20) as tick:
        for _ in range(20):
            tick()
    lines = [line for line in capsys.readouterr().out.splitlines() if " of 20" in line]
    assert len(lines) == 10 and lines[0].startswith("steps: 2 of 20")


def test_a_note_is_a_line_of_its_own_and_what_was_done_before_counts(capsys):
    with bar("runs", 30, done=4, stderr=True) as tick:
        tick("runs/a")
    out, err = capsys.readouterr()
    assert "runs: 5 of 30" in err and ": runs/a" in err and "runs:" not in out


def test_ranks_beside_the_first_say_nothing(capsys):
    with bar("steps", 1, enabled=False) as tick:
        tick()
    assert capsys.readouterr() == ("", "")
