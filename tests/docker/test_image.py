"""The image's recipe, checked without a container engine; docker/smoke.sh builds and runs it where there is one."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continuation lines joined."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, arguments in instructions():
        if instruction == "FROM":
            name = arguments.split()[-1]
            found[name] = []
        if name:
            found[name].append((instruction, arguments))
    return found


def test_both_variants_run_as_a_user_that_is_not_root():
    runtime = stages()["runtime"]
    assert ("USER", "10001:10001") in runtime
    for target in ("cpu", "gpu"):
        assert stages()[target][0] == ("FROM", f"runtime AS {target}")
        assert not [arguments for instruction, arguments in stages()[target] if instruction == "USER"]
    assert list(stages())[-1] == "cpu"  # what a plain `docker build` makes


def test_every_base_image_is_pinned_to_a_patch_version():
    images = [
        arguments.split("=", 1)[1] for instruction, arguments in instructions() if arguments.startswith("PYTHON_")
    ]
    assert images
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", image) for image in images)
    bases = {arguments.split()[0] for instruction, arguments in instructions() if instruction == "FROM"}
    assert bases == {"${PYTHON_IMAGE}", "build", "runtime"}


def test_everything_pip_installs_is_held_to_the_tested_versions():
    commands = [a for i, a in instructions() if i == "RUN" and re.search(r"\bpip install\b", a)]
    assert len(commands) == 4
    assert all("-c constraints.txt" in command for command in commands)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    used = set(re.findall(r"\[([a-z0-9,-]+)\]", " ".join(commands)))
    assert used == {"s3,kubernetes,dask,ray"}
    assert {"s3", "kubernetes", "dask", "ray"} <= set(extras)
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()}
    for extra in ("dask", "ray"):  # every `compute.runner` that the settings offer runs in the image
        assert {re.split(r"[<>=]", requirement)[0] for requirement in extras[extra]} <= pinned


def test_the_torch_index_is_an_argument_of_both_variants():
    for stage in ("build-cpu", "build-gpu"):
        assert any(i == "ARG" and a.startswith("TORCH_INDEX=") for i, a in stages()[stage])


def test_no_secret_is_named_in_the_recipe_and_the_context_leaves_everything_else_out():
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"(?i)(password|secret|token|api_key|access_key)\s*=", text)
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = {
        source
        for instruction, arguments in instructions()
        if instruction == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
        if not source.startswith("--")
    }
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_folder_does_not_shadow_the_docker_package():
    assert not (DOCKER / "__init__.py").exists()


def enter(tmp_path: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(DOCKER / "entrypoint.sh"), sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("secret", ["dihal:plain", "sp ace$(id)`id`\"'\\"])
def test_the_entrypoint_takes_secrets_from_files_as_they_are(tmp_path: Path, secret: str):
    (tmp_path / "auth").write_text(f"{secret}\n")
    done = enter(
        tmp_path,
        "import os; print(os.environ['PREFECT_API_AUTH_STRING']); print(sorted(k for k in os.environ if '__FILE' in k))",
        PREFECT_API_AUTH_STRING__FILE=str(tmp_path / "auth"),
        AWS_SHARED_CREDENTIALS_FILE="/run/secrets/aws_credentials",
    )
    assert done.stdout.splitlines() == [secret, "[]"]


def test_the_entrypoint_names_a_secret_file_that_is_missing(tmp_path: Path):
    done = enter(tmp_path, "print('ran')", PREFECT_API_AUTH_STRING__FILE=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "PREFECT_API_AUTH_STRING__FILE names" in done.stderr
    assert "ran" not in done.stdout


@pytest.mark.parametrize("variable", ["PREFECT_API_AUTH_STRING__FILE", "HF_TOKEN__OPTIONAL_FILE"])
def test_the_entrypoint_refuses_a_secret_that_is_there_and_cannot_be_read(variable: str, tmp_path: Path):
    done = enter(tmp_path, "print('ran')", **{variable: str(tmp_path)})  # what an engine mounts for a missing file
    assert done.returncode == 2
    assert f"{variable} names {tmp_path}, which cannot be read" in done.stderr
    assert "ran" not in done.stdout


@pytest.mark.parametrize("content", ["", "\n", None])
def test_a_password_may_not_be_empty(content: str | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "auth").write_text(content)
    file = str(tmp_path / "auth") if content is not None else ""
    done = enter(tmp_path, "print('ran')", PREFECT_SERVER_API_AUTH_STRING__FILE=file)
    assert done.returncode == 2
    assert "PREFECT_SERVER_API_AUTH_STRING__FILE names" in done.stderr
    assert "ran" not in done.stdout


@pytest.mark.parametrize(("content", "token"), [("hf_abc\n", "hf_abc"), ("", None), (None, None)])
def test_a_token_of_the_hub_may_be_missing(content: str | None, token: str | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "hf_token").write_text(content)
    code = "import os; print(os.environ.get('HF_TOKEN')); print([k for k in os.environ if 'FILE' in k])"
    done = enter(tmp_path, code, HF_TOKEN__OPTIONAL_FILE=str(tmp_path / "hf_token"))
    assert done.stdout.splitlines() == [str(token), "[]"], done.stderr


def test_models_of_the_hub_are_kept_on_the_volume_of_the_cache():
    (given,) = [arguments for instruction, arguments in stages()["runtime"] if arguments.startswith("PATH=")]
    environment = dict(word.split("=", 1) for word in given.split())
    assert environment["HF_HOME"].startswith(f"{environment['DIHAL_CACHE']}/")
