"""What the host does for each node, in calls of functions: no change makes it much more without saying so."""

from __future__ import annotations

from benchmarks.counts import FLAT, measure, steepness


def test_a_node_costs_the_host_no_more_calls_of_functions_than_is_written_down() -> None:
    counts = measure()
    assert [count for count in counts if count.is_too_much] == [], counts
    assert steepness(counts) <= FLAT, counts
