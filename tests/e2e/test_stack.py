"""The services of docker/compose.yaml as plain processes, with its commands, environment and secrets.

PostgreSQL of the distribution, Prefect server on it with basic auth, worker, S3-compatible store: a study run by
deployment gives the stores that SQLite and a local folder give.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def plain_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "DIHAL_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stack") / "secrets"
    environment = {**os.environ, "DIHAL_SECRETS": str(folder)}
    subprocess.run(["/bin/sh", str(DOCKER / "secrets.sh")], env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def postgres(secrets: Path) -> Iterator[int]:
    """Port of a real PostgreSQL that asks for the password of the secret."""
    found = [shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]
    binary = next((Path(path).resolve() for path in found if path), None)
    if binary is None:
        pytest.skip("no initdb on this machine; `apt-get install postgresql` brings it")
    folder = Path(tempfile.mkdtemp(prefix="dihal-postgres-"))
    password = folder / "password"
    shutil.copy(secrets / "postgres_password", password)
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(folder, "postgres", "postgres")
        shutil.chown(password, "postgres", "postgres")
        owner = {"user": "postgres", "group": "postgres", "extra_groups": []}
    data, port = folder / "data", free_port()
    make = [binary, "-D", data, "-U", "prefect", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, **owner)
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [binary.with_name("postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"],
            stdout=log,
            stderr=log,
            cwd=folder,
            **owner,
        )
    try:
        deadline = time.monotonic() + 60
        while query(port, secrets, "select 1", database="postgres") is None:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.3)
        query(port, secrets, "create database prefect", database="postgres")
        yield port
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder)


def query(port: int, secrets: Path, sql: str, database: str = "prefect") -> list[Any] | None:
    """Rows of one statement, None while the server starts."""
    import asyncpg

    async def ask() -> list[Any] | None:
        password = (secrets / "postgres_password").read_text().strip()
        try:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=port, user="prefect", password=password, database=database
            )
        except (OSError, asyncpg.CannotConnectNowError):
            return None
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def store(secrets: Path) -> Iterator[str]:
    """Endpoint of an S3-compatible server."""
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    forget = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(forget, timeout=30).close()  # its buckets live in this process and outlive earlier servers
    yield f"http://127.0.0.1:{port}"
    server.stop()


class Stack:
    """Runs services of compose.yaml as processes of this machine."""

    def __init__(self, folder: Path, secrets: Path, postgres: int, store: str):
        self.folder, self.secrets, self.postgres, self.store = folder, secrets, postgres, store
        self.port, self.health_port = free_port(), free_port()
        self.running: list[subprocess.Popen[bytes]] = []
        shutil.copytree(ROOT / "deployments", folder / "project" / "deployments")

    def environment(self, service: str) -> dict[str, str]:
        names = {
            "/run/secrets": str(self.secrets),
            "http://server:4200": f"http://127.0.0.1:{self.port}",
            "http://store:8333": self.store,
            "${DIHAL_BIND:-127.0.0.1}:4200": f"127.0.0.1:{self.port}",
            f"${{DIHAL_UI_API_URL:-http://127.0.0.1:{self.port}/api}}": f"http://127.0.0.1:{self.port}/api",
            "${DIHAL_RUNS_AT_ONCE:-1}": "1",
        }
        given = COMPOSE["services"][service].get("environment", {})
        environment = {name: str(value) for name, value in given.items()}
        for old, new in names.items():
            environment = {name: value.replace(old, new) for name, value in environment.items()}
        if "PREFECT_SERVER_DATABASE_HOST" in environment:
            environment |= {
                "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
                "PREFECT_SERVER_DATABASE_PORT": str(self.postgres),
            }
        if "PREFECT_WORKER_WEBSERVER_PORT" in environment:
            environment["PREFECT_WORKER_WEBSERVER_PORT"] = str(self.health_port)
        image = re.findall(r"(PREFECT_[A-Z_]+)=(\S+)", (DOCKER / "Dockerfile").read_text(encoding="utf-8"))
        return {
            **plain_environment(),
            **dict(image),
            **environment,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "DIHAL_CACHE": str(self.folder / "cache"),
        }

    def command(self, words: list[str]) -> list[str]:
        places = {"python": [sys.executable], "prefect": [sys.executable, "-m", "prefect"]}
        places |= {"dihal": [sys.executable, "-m", "flows.cli"]}
        flat = [part for word in words for part in (places.get(word, [word]))]
        flat = [part.replace("/opt/dihal-docker", str(DOCKER)).replace("0.0.0.0", "127.0.0.1") for part in flat]
        flat = [str(self.port) if part == "4200" else re.sub(r"\$\{\w+:-(.+)\}", r"\1", part) for part in flat]
        return ["/bin/sh", str(DOCKER / "entrypoint.sh"), *flat]

    def start(self, service: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{service}.log", "wb") as log:
            process = subprocess.Popen(
                self.command(COMPOSE["services"][service]["command"]),
                env=self.environment(service),
                cwd=self.folder / "project",
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def run(self, service: str, words: list[str], timeout: float = 420) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(words),
            env=self.environment(service),
            cwd=self.folder / "project",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def wait_for_server(self) -> None:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=3).close()
                return
            except OSError:
                assert self.running[0].poll() is None, (self.folder / "server.log").read_text()[-3000:]
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()[-3000:]
                time.sleep(0.5)

    def stop(self) -> None:
        for process in reversed(self.running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, secrets: Path, postgres: int, store: str) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("services"), secrets, postgres, store)
    try:
        made.start("server")
        made.wait_for_server()
        prepared = made.run("prepare", COMPOSE["services"]["prepare"]["command"])
        assert prepared.returncode == 0, prepared.stdout + prepared.stderr
        made.start("worker")
        yield made
    finally:
        made.stop()


def test_a_study_on_postgresql_and_s3_has_the_results_of_sqlite_and_a_folder(stack: Stack, tmp_path: Path):
    words = ["prefect", "--no-prompt", "deployment", "run", "dihal/full-study", "-p", "profile=smoke", "--watch"]
    done = stack.run("worker", words)
    assert done.returncode == 0, done.stdout + done.stderr + (stack.folder / "worker.log").read_text()[-3000:]

    with urllib.request.urlopen(f"http://127.0.0.1:{stack.health_port}/health", timeout=10) as reply:
        assert reply.status == 200
    assert query(stack.postgres, stack.secrets, "select name from automation where name like 'dihal-dead%'") == [
        ("dihal-dead-runs",)
    ]
    rows = query(stack.postgres, stack.secrets, "select state_type from flow_run")
    assert rows == [("COMPLETED",)]
    (tasks,) = (
        query(stack.postgres, stack.secrets, "select count(*) from task_run where state_type = 'COMPLETED'") or []
    )
    assert tasks[0] >= 14

    environment = {**stack.environment("worker"), "AWS_EC2_METADATA_DISABLED": "true"}
    local = tmp_path / "local"
    sqlite = subprocess.run(
        [sys.executable, "-m", "flows.cli", "study", "--profile", "smoke", "--home", str(local), "--port", "4340"],
        env=plain_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    try:
        assert sqlite.returncode == 0, sqlite.stdout + sqlite.stderr
        assert (local / ".prefect" / "prefect.db").is_file()
    finally:
        down = [sys.executable, "-m", "flows.cli", "down", "--home", str(local)]
        subprocess.run(down, env=plain_environment(), cwd=tmp_path, check=True, capture_output=True, timeout=120)
    expected = digests([json.loads(path.read_bytes()) for path in local.glob("*/*/manifest.json")])
    assert len(expected) >= 14
    assert digests(remote_manifests(environment)) == expected

    looked = stack.run("worker", ["dihal", "report"])
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.splitlines()[0] in sqlite.stdout


def remote_manifests(environment: dict[str, str]) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
            patch.setenv(name, environment[name])
        filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
        home = environment["DIHAL_HOME"]
        return [json.loads(filesystem.cat_file(path)) for path in filesystem.glob(f"{home}/*/*/manifest.json")]


def digests(manifests: list[dict[str, Any]]) -> dict[str, str]:
    """`{stage/unit: digest}` of every store but the report, whose ledger holds seconds."""
    return {f"{m['stage']}/{m['unit']}": m["digest"] for m in manifests if m["stage"] != "report"}


def test_the_server_asks_for_the_password(stack: Stack):
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.port}/api/flow_runs/filter", b"{}", {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=10)


def test_no_log_of_a_service_shows_a_secret(stack: Stack):
    said = b"".join(path.read_bytes() for path in stack.folder.rglob("*.log"))
    assert b"worker" in said.lower()
    (identity,) = json.loads((stack.secrets / "s3_identities.json").read_bytes())["identities"]
    (credentials,) = identity["credentials"]
    for secret in [
        (stack.secrets / "postgres_password").read_text().strip(),
        (stack.secrets / "prefect_auth").read_text().strip(),
        credentials["accessKey"],
        credentials["secretKey"],
    ]:
        assert secret.encode() not in said
