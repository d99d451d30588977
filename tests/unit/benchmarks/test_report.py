"""What is said of an aim: a ratio, a figure of its own unit, or how much more than another."""

from __future__ import annotations

from benchmarks.report import Report


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
