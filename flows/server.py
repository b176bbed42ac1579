"""A local Prefect server and worker that outlive the command that starts them.

State lives in `<home>/.prefect` (database, results, logs, `server.json`). Everything listens on
loopback, telemetry is off. A port in use gets the next free one, which is printed.
"""

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from dihal_core.errors import ConfigError, ResourceError
from dihal_core.files import dump_json, write_atomically
from dihal_core.remote.link import home_uri
from dihal_core.store import store_lock
from dihal_core.study import slug
from flows.limits import runs_at_once
from flows.retention import retention_environment

HOST = "127.0.0.1"
FIRST_PORT = 4200
PORTS_TRIED = 50
START_SECONDS = 180
POOL = "dihal-local"
PREFECT_FILE = Path("deployments/prefect.yaml")

Say = Callable[[str], None]


def state_folder(home: Path) -> Path:
    """Return the folder of Prefect's own files."""
    return home / ".prefect"


def prefect_environment(home: Path, url: str | None = None) -> dict[str, str]:
    """Return the variables under which every Prefect process of this home runs."""
    folder = state_folder(home)
    environment = {
        "DIHAL_HOME": home_uri(home),
        "PREFECT_HOME": str(folder),
        "PREFECT_LOCAL_STORAGE_PATH": str(folder / "storage"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(folder / "results"),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "dihal_core,tasks,flows",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_CLIENT_MAX_RETRIES": "8",  # doubling waits, eight minutes in all: a server may restart in mid-run
        "PREFECT_CLI_PROMPT": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads crawl as soon as anything else wants a core
    }
    environment |= retention_environment()
    if url:
        environment["PREFECT_API_URL"] = url
    return environment


def healthy(url: str, timeout_s: float = 3.0) -> bool:
    """Return True if a Prefect API answers at `url`: on loopback directly, elsewhere as the environment's proxies say."""
    try:
        proxies = [urllib.request.ProxyHandler({})] if _is_loopback(url) else []
        with urllib.request.build_opener(*proxies).open(f"{url}/health", timeout=timeout_s) as reply:
            return reply.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _read(home: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((state_folder(home) / name).read_bytes())
    except (OSError, ValueError):
        return {}


def _alive(facts: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(facts["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - facts["created"]) < 2
    except (KeyError, psutil.Error):
        return False


def running_url(home: Path) -> str | None:
    """Return the API URL of this home's running server, or None."""
    facts = _read(home, "server.json")
    return facts["url"] if _alive(facts) and healthy(facts["url"]) else None


def free_port(first: int = FIRST_PORT) -> int:
    """Return the first free loopback port from `first` on.

    Raises
    ------
    ResourceError
        If none of the next 50 is free.
    ConfigError
        If `first` is no port.
    """
    if not 1 <= first <= 65535:
        raise ConfigError(f"port {first} is outside 1..65535; choose another --port")
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                return port
            except OSError:
                continue
    raise ResourceError(f"ports {first}..{first + PORTS_TRIED - 1} on {HOST} are all in use; free one or pass --port")


def _detach(home: Path, arguments: list[str], log_name: str, environment: dict[str, str]) -> dict[str, Any]:
    """Start a process in a session of its own, output to a log file, no inherited pipes."""
    folder = state_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / log_name, "ab") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
            cwd=folder,
            env={**os.environ, **environment},
        )
    return {"pid": process.pid, "created": psutil.Process(process.pid).create_time(), "log": str(folder / log_name)}


def ensure_server(home: Path, say: Say, port: int | None = None) -> str:
    """Return the API URL of a running server of `home`, starting a detached one if there is none.

    Raises
    ------
    ResourceError
        If the server does not answer in time (its log is named) or no port is free.
    """
    with store_lock(home, ".prefect", "server"):  # two first runs at once: one starts it, the other finds it
        url = running_url(home)
        return url or _start_server(home, say, port)


def _start_server(home: Path, say: Say, port: int | None) -> str:
    chosen = free_port(port or FIRST_PORT)
    if chosen != (port or FIRST_PORT):
        say(f"port {port or FIRST_PORT} is in use; the Prefect server takes {chosen}")
    url = f"http://{HOST}:{chosen}/api"
    arguments = ["server", "start", "--host", HOST, "--port", str(chosen)]
    facts = {**_detach(home, arguments, "server.log", prefect_environment(home, url)), "url": url, "port": chosen}
    write_atomically(state_folder(home) / "server.json", dump_json(facts))
    started = time.monotonic()
    try:
        while not healthy(url):
            if not _alive(facts):
                raise ResourceError(f"the Prefect server stopped while starting; its log is {facts['log']}")
            if time.monotonic() - started > START_SECONDS:
                raise ResourceError(f"the Prefect server did not answer within {START_SECONDS} s; see {facts['log']}")
            time.sleep(0.3)
    except BaseException:
        _stop(home, "server", facts)
        raise
    say(f"Prefect server at {url.removesuffix('/api')} (log: {facts['log']}; `make down` stops it)")
    return url


def prefect(home: Path, url: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one Prefect command against the server and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env={**os.environ, **prefect_environment(home, url)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def ensure_worker(home: Path, url: str, say: Say, gpus: Sequence[str] = ()) -> None:
    """Create the process work pool; start one detached worker for CPU runs and one per GPU in `gpus`.

    The first takes `runs_at_once` runs at a time. A GPU's worker sees that GPU alone, takes one run of the queue `gpu`
    at a time, and nothing else.

    Raises
    ------
    ConfigError
        If `$DIHAL_RUNS_AT_ONCE` is no number of runs; nothing is started then.
    ResourceError
        If the server takes no work pool.
    """
    limit = runs_at_once()
    made = prefect(home, url, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    if made.returncode != 0:
        raise ResourceError(f"could not create work pool {POOL}: {made.stderr.strip() or made.stdout.strip()}")
    _start_worker(home, url, say, "worker", f"{POOL}-worker", ("default", limit), {})
    for gpu in gpus:
        name = f"worker-gpu-{slug(gpu)}"
        _start_worker(home, url, say, name, f"{POOL}-{name}", ("gpu", 1), {"CUDA_VISIBLE_DEVICES": gpu})


def _start_worker(
    home: Path, url: str, say: Say, name: str, title: str, work: tuple[str, int], environment: dict[str, str]
) -> None:
    """Start a worker for `work`, a queue and how many of its runs at once, unless it runs."""
    queue, limit = work
    running = _read(home, f"{name}.json")
    if _alive(running):
        if running.get("url") == url:
            if running.get("limit") != limit:  # starting it anew would end what it runs
                say(f"{name} runs on as it was started; {limit} at once holds after `dihal down` and `dihal up`")
            return
        _stop(home, name, running)
    arguments = ["worker", "start", "--pool", POOL, "--name", title, "--work-queue", queue, "--limit", str(limit)]
    facts = _detach(home, arguments, f"{name}.log", {**prefect_environment(home, url), **environment})
    write_atomically(state_folder(home) / f"{name}.json", dump_json({**facts, "url": url, "limit": limit}))
    say(f"{name} for pool {POOL} started (log: {facts['log']})")


def deploy(home: Path, url: str, project: Path, say: Say) -> None:
    """Apply every deployment of `deployments/prefect.yaml`."""
    if not (project / PREFECT_FILE).is_file():
        raise ConfigError(f"no {PREFECT_FILE} under {project}; run this from the project folder")
    done = prefect(home, url, "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_FILE), cwd=project)
    if done.returncode != 0:
        raise ResourceError(f"`prefect deploy` failed: {(done.stdout + done.stderr).strip()[-1500:]}")
    say("applied every deployment; one runs by `prefect deployment run dihal/full-study`")


def write_prefect_toml(home: Path, url: str, project: Path) -> None:
    """Let a plain `prefect ...` from the project folder talk to this server."""
    text = (
        "# Written by `make up` / `make study`; machine-local, not tracked.\n"
        f'home = "{state_folder(home)}"\n\n[api]\nurl = "{url}"\n\n[cli]\nprompt = false\n\n'
        "[server]\nanalytics_enabled = false\n"
    )
    write_atomically(project / "prefect.toml", text.encode())


def prefect_toml_leads_elsewhere(home: Path, project: Path) -> bool:
    """Say whether the project's prefect.toml names another home's server that answers: an operator's `dihal up`."""
    text = _text(project / "prefect.toml")
    try:
        url = tomllib.loads(text).get("api", {}).get("url", "")
    except (tomllib.TOMLDecodeError, AttributeError):
        return False
    return str(state_folder(home)) not in text and isinstance(url, str) and healthy(url)


def _stop(home: Path, name: str, facts: dict[str, Any]) -> None:
    """Stop one detached process and its children, and forget it."""
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        parent = psutil.Process(facts["pid"])
        family = [*parent.children(recursive=True), parent]
        os.killpg(facts["pid"], signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=15)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
    (state_folder(home) / f"{name}.json").unlink(missing_ok=True)


def stop_all(home: Path, say: Say, project: Path | None = None) -> None:
    """Stop worker and server of this home, children included; `project`'s prefect.toml goes if it names them."""
    gpus = sorted(path.stem for path in state_folder(home).glob("worker-gpu-*.json"))
    for name in (*gpus, "worker", "server"):
        facts = _read(home, f"{name}.json")
        if not _alive(facts):
            say(f"{name}: not running")
            continue
        _stop(home, name, facts)
        say(f"{name}: stopped")
    if project is not None and str(state_folder(home)) in _text(project / "prefect.toml"):
        (project / "prefect.toml").unlink()


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
