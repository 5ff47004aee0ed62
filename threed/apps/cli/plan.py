"""The table of `threed generate --plan`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from threed.apps.cli.lists import print_table
from threed.apps.cli.show import say

if TYPE_CHECKING:
    from threed.runs.plan import MemoryPlan

GIB = 2**30


def print_plan(plan: MemoryPlan, as_json: bool) -> None:
    """What each stage takes, and whether it fits."""
    if as_json:
        say(json.dumps(asdict(plan) | {"peak": plan.peak}, indent=2))
        return
    rows = [{"stage": stage.name, "pictures": f"{stage.views} of {stage.resolution}²",
             "at once": f"{stage.chunk:,}", "peak": f"{stage.peak / GIB:.2f} GiB"}
            for stage in plan.stages]  # fmt: skip
    print_table(rows)
    say(f"at most {plan.peak / GIB:.2f} GiB of {plan.limit / GIB:.2f} on {plan.device}")
