"""Is the engine of `compute.runner` installed? Imports neither Prefect nor the engine, so that a command can ask early."""

import importlib.util

from dihal_core.config import ComputeSettings
from dihal_core.errors import ConfigError

ENGINES = {"dask": ("prefect_dask", "distributed"), "ray": ("prefect_ray", "ray")}
"""Modules that an engine needs; the extra of the same name installs them."""


def require_engine(compute: ComputeSettings) -> None:
    """Raise unless the task runs of a study can be computed where its settings say.

    Raises
    ------
    ConfigError
        If the extra of the engine is not installed, with the command that installs it.
    """
    missing = [name for name in ENGINES.get(compute.runner, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"compute.runner is {compute.runner} but {' and '.join(missing)} cannot be imported; install the extra with "
            f"`pip install -c constraints.txt 'dihal[{compute.runner}]'` (in a checkout: `-e '.[{compute.runner}]'`), on "
            "the workers of a cluster too, or set compute.runner=threads"
        )
