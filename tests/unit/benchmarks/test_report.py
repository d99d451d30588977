"""What is said of an aim: a ratio, a figure of its own unit, or how much more than another."""

from __future__ import annotations

from pathlib import Path

from benchmarks.__main__ import Run
from benchmarks.report import Report, SideBySide


def report() -> Report:
    made = Report("a question")
    made.add("a call", [2.0, 2.0, 2.0, 9.0])
    made.add("an echo", [1.0, 1.0, 1.0, 3.0])
    made.add("ours", [150.0], unit="MiB")
    made.add("theirs", [144.0], unit="MiB")
    return made


def test_a_ratio_of_medians_and_one_of_the_worst() -> None:
    made = report()
    made.aim("a call", "an echo", 1.5)
    made.aim("a call", "an echo", 4.0, "p99")
    made.aim("a call", "an echo", 4.0, "p99", figure_against="p99")
    assert made.goal_lines() == [
        "| a call | an echo | 1.5 | 2.00 | **no** |",
        "| a call (p99) | an echo | 4 | 9.00 | **no** |",
        "| a call (p99) | an echo (p99) | 4 | 3.00 | yes |",
    ]


def test_a_figure_of_its_own_unit_and_how_much_more_it_is() -> None:
    made = report()
    made.aim("ours", None, 12.0)
    made.aim("ours", "theirs", 10.0, is_difference=True)
    made.aim("a call", None, 5.0)
    assert made.goal_lines() == [
        "| ours | (as it is) | 12 MiB | 150.00 MiB | **no** |",
        "| ours | theirs | 10 MiB more | 6.00 MiB more | yes |",
        "| a call | (the clock) | 5 ms | 2.00 ms | yes |",
    ]
    assert "| ours | 1 | 150.00 MiB | 150.00 MiB |  |" in made.table()


def test_an_aim_beside_what_was_left_out_is_none() -> None:
    made = report()
    made.aim("a call", "a peer that is not here", 1.0)
    assert made.goals == []


def test_kinds_stand_side_by_side_with_their_runs_and_whose_note_is_whose() -> None:
    ours, theirs = report(), Report("a question")
    ours.notes.append("a note")
    theirs.add("a call", [4.0])
    theirs.notes.append("a note")
    lines = SideBySide("a question", {"runc": ours, "gvisor": theirs}).table().splitlines()
    assert lines[2] == "| a call | 4 | 2.000 | 9.000 |  | 1 | 4.000 | 4.000 |  |"
    assert lines[3] == "| an echo | 4 | 1.000 | 3.000 |  | - | - | - | |"
    assert lines[-2:] == ["- runc: a note", "- gvisor: a note"]


def test_only_ratios_of_medians_are_held_against_an_aim_in_ci() -> None:
    made = report()
    made.aim("a call", "an echo", 1.5)
    made.aim("a call", "an echo", 4.0, "p99")
    made.aim("a call", None, 5.0)
    made.aim("ours", "theirs", 10.0, is_difference=True)
    assert [goal.is_ratio_of_medians for goal in made.goals] == [True, False, False, False]
    run = Run(quick=True, kinds=["runc"], comfyui=None, results=Path(), reports=[made])
    assert run.far_off(1.3) == ["a call / an echo: 2.00 (a question)"]
    assert run.far_off(1.4) == []
