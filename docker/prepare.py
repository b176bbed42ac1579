"""Make a server ready: the bucket of DIHAL_HOME, every work pool the deployments name, deployments and automations.

Runs once, beside a healthy Prefect server; safe to run again: schedules that were on stay on (`dihal schedules` switches).
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from dihal_core.errors import DihalError
from flows.limits import runs_at_once

PREFECT_FILE = Path("deployments/prefect.yaml")
POOL_TYPE = os.environ.get("DIHAL_POOL_TYPE", "process")


def prefect(*arguments: str) -> None:
    """Run one Prefect command; its own message and exit status are ours if it fails."""
    done = subprocess.run([sys.executable, "-m", "prefect", *arguments], check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def make_bucket(home: str) -> None:
    """Create the bucket of an s3:// home if it is not there."""
    from fsspec.core import url_to_fs

    filesystem, root = url_to_fs(home)
    bucket = root.split("/", 1)[0]
    if not filesystem.exists(bucket):
        filesystem.mkdir(bucket)
        sys.stdout.write(f"bucket {bucket} made\n")


def pools(prefect_file: Path) -> list[str]:
    """Return the names of the work pools the deployments run in."""
    deployments = yaml.safe_load(prefect_file.read_text(encoding="utf-8"))["deployments"]
    return sorted({item["work_pool"]["name"] for item in deployments})


def deploy() -> None:
    """Apply all deployments; the file turns every schedule off, so those that ran are turned on again."""
    from flows.operating import keep_schedules

    try:
        with keep_schedules(os.environ["PREFECT_API_URL"], lambda line: sys.stdout.write(f"{line}\n")):
            prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE))
    except DihalError as error:
        sys.exit(f"dihal: {error}")


def automate() -> None:
    """Apply the automations, which crash runs whose process is gone; the sentence of a refusal is ours."""
    from flows.automations import apply_automations

    try:
        apply_automations(os.environ["PREFECT_API_URL"], Path(), lambda line: sys.stdout.write(f"{line}\n"))
    except DihalError as error:
        sys.exit(f"dihal: {error}")


def main() -> None:
    """Settings of the worker, bucket, pools, deployments, automations, in this order."""
    try:
        runs_at_once()
    except DihalError as error:
        sys.exit(f"dihal: {error}")
    home = os.environ.get("DIHAL_HOME", "").strip()
    if not home:
        sys.exit("dihal: DIHAL_HOME is not set, and every deployment keeps it; give a folder or s3://bucket/prefix")
    if home.startswith("s3://"):
        make_bucket(home)
    for pool in pools(PREFECT_FILE):
        template = os.environ.get("DIHAL_BASE_JOB_TEMPLATE")
        extra = ["--base-job-template", template] if template else []
        prefect("work-pool", "create", pool, "--type", POOL_TYPE, "--overwrite", *extra)
    deploy()
    automate()


if __name__ == "__main__":
    main()
