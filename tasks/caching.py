"""Prefect's cache keys are ours: `dihal/<stage>/<key>`, made from content (see `dihal_core.stages`).

Prefect's own defaults are wrong for a study: they include the run id, see only the task's own source
and trust a stored result although the files it points to are gone.
"""

from typing import Any

from prefect.cache_policies import CachePolicy


def _content_key(_context: Any, parameters: dict[str, Any]) -> str:
    request = parameters["request"]
    return f"dihal/{request['stage']}/{request['key']}"


CONTENT_KEY = CachePolicy.from_cache_key_fn(_content_key)
