"""Timing in turn."""

import time

from plasticity_lightning.studies.latency import seconds_in_turn


def test_the_slower_function_takes_longer_and_both_are_called_in_turn():
    calls = []

    def quick():
        calls.append("quick")

    def slow():
        calls.append("slow")
        time.sleep(0.012)

    fast, long = seconds_in_turn([quick, slow], seconds=0.03)
    assert 0 <= fast < 0.012 <= long
    turns = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert turns[:4] == ["quick", "slow", "quick", "slow"]
