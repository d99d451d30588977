"""What the host does for each node, in calls of functions: no change makes it much more without saying so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.counts import FLAT, measure, steepness


@pytest.mark.usefixtures("every_fast_path")  # what is written down is what a server as it is shipped does
def test_a_node_costs_the_host_no_more_calls_of_functions_than_is_written_down(
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    counts = measure()
    for count in counts:
        record_testsuite_property(count.what, count.calls)  # kept in the run's results
    assert [count for count in counts if count.is_too_much] == [], counts
    assert steepness(counts) <= FLAT, counts
