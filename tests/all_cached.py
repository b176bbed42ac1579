"""`dihal plan --json | python tests/all_cached.py`: exit code 0 if the plan has stages and finds every one cached."""

import json
import sys
from typing import Any


def not_cached(rows: list[dict[str, Any]]) -> list[str]:
    """Return `stage: status` of every row of a plan that is anything but cached."""
    return [f"{row['stage']}: {row['status']}" for row in rows if row["status"] != "cached"]


if __name__ == "__main__":
    plan = json.load(sys.stdin)
    left = not_cached(plan) if plan else ["the plan names no stage"]
    sys.exit(f"not everything is cached: {'; '.join(left)}" if left else 0)
