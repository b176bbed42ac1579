import io
import logging
import os
import subprocess
import sys

import pytest

from dihal_core.errors import ConfigError
from dihal_core.profiles import load_study
from dihal_core.store import resolve_home
from dihal_core.study import study_folder
from flows import safety
from flows.study import full_study
from tasks import redaction


@pytest.fixture(autouse=True)
def no_permissions(monkeypatch):
    monkeypatch.delenv(safety.ARCHIVE_PLACES, raising=False)
    monkeypatch.delenv(safety.REMOTE_CODE, raising=False)
    monkeypatch.delenv(safety.CLUSTERS, raising=False)


def smoke(**overrides):
    return load_study("smoke", overrides={name.replace("__", "."): value for name, value in overrides.items()})


@pytest.mark.parametrize("place", ["/etc/dihal", "s3://bucket/cold", "{home}/../elsewhere", "{home}-beside", "~/x"])
def test_an_archive_outside_the_home_needs_the_operators_permission(place, tmp_path, monkeypatch):
    home = tmp_path / "runs"
    settings = smoke(compute__archive_url=place.replace("{home}", str(home)))
    with pytest.raises(ConfigError, match="outside DIHAL_HOME"):
        safety.require_permitted(settings, home)
    monkeypatch.setenv(safety.ARCHIVE_PLACES, f"s3://bucket, /etc, {tmp_path}, ~")
    safety.require_permitted(settings, home)


def test_a_permission_does_not_reach_beyond_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv(safety.ARCHIVE_PLACES, "s3://bucket/cold")
    for place in ("s3://bucket/colder", "s3://bucket/cold/../hot", "s3://other/cold"):
        with pytest.raises(ConfigError, match="outside DIHAL_HOME"):
            safety.require_permitted(smoke(compute__archive_url=place), tmp_path)


def test_an_archive_inside_the_home_is_permitted_unless_a_link_leads_out(tmp_path):
    home = tmp_path / "runs"
    home.mkdir()
    safety.require_permitted(smoke(compute__archive_url=str(home / "cold")), home)
    (home / "way-out").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="outside DIHAL_HOME"):
        safety.require_permitted(smoke(compute__archive_url=str(home / "way-out" / "x")), home)


def test_an_archive_inside_a_remote_home_is_permitted(tmp_path, monkeypatch):
    monkeypatch.setenv("DIHAL_CACHE", str(tmp_path))
    home = resolve_home("s3://bucket/runs")
    safety.require_permitted(smoke(compute__archive_url="s3://bucket/runs/cold"), home)
    with pytest.raises(ConfigError, match=r"outside DIHAL_HOME \(s3://bucket/runs\)"):
        safety.require_permitted(smoke(compute__archive_url="s3://bucket/run"), home)


def test_downloaded_code_needs_the_operators_permission(tmp_path, monkeypatch):
    settings = smoke(backbone__trust_remote_code=True)
    with pytest.raises(ConfigError, match="DIHAL_ALLOW_REMOTE_CODE=1"):
        safety.require_permitted(settings, tmp_path)
    monkeypatch.setenv(safety.REMOTE_CODE, "1")
    safety.require_permitted(settings, tmp_path)


def test_a_cluster_that_the_operator_did_not_name_is_not_connected_to(tmp_path, monkeypatch):
    settings = smoke(compute__runner="dask", compute__runner_address="tcp://10.0.0.9:8786")
    with pytest.raises(ConfigError, match="DIHAL_CLUSTERS naming that address"):
        safety.require_permitted(settings, tmp_path)
    monkeypatch.setenv(safety.CLUSTERS, "tcp://10.0.0.9:87860, ray://head:10001")
    with pytest.raises(ConfigError, match="DIHAL_CLUSTERS naming that address"):
        safety.require_permitted(settings, tmp_path)
    monkeypatch.setenv(safety.CLUSTERS, "ray://head:10001, tcp://10.0.0.9:8786")
    safety.require_permitted(settings, tmp_path)


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a/../../b", "..", "x\0y", "con<script>"])
def test_no_name_leads_a_study_out_of_its_home(name, tmp_path):
    folder = study_folder(tmp_path, smoke(backbone__name=name))
    assert folder.parent == tmp_path / "studies"
    assert "\0" not in str(folder)


@pytest.mark.parametrize("profile", ["../smoke", "/etc/passwd", "smoke/../smoke", ""])
def test_a_profile_is_a_shipped_name(profile):
    with pytest.raises(ConfigError, match="unknown profile"):
        load_study(profile)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter22@example.org/dolma",  # pragma: allowlist secret
        "s3://key:secret@bucket/dolma",  # pragma: allowlist secret
        "https://example.org/dolma?X-Amz-Signature=abc",
        "https://example.org/dolma?a=1&token=abc",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(address):
    for setting in ("corpus.base_url", "corpus.evaluation_url", "compute.archive_url"):
        with pytest.raises(ConfigError, match="credentials through the environment") as refused:
            load_study("smoke", overrides={setting: address})
        told = f"{refused.value} {refused.value.__cause__}"
        assert "hunter22" not in told
        assert address not in told
    with pytest.raises(ConfigError, match="credentials through the environment"):
        load_study("smoke", overrides={"corpus.huggingface.data_files": ["plain.parquet", address]})


def test_plain_addresses_are_accepted():
    for address in ("https://olmo-data.org/dolma-v1_7", "s3://bucket/dolma", "https://example.org/a?version=2"):
        assert load_study("smoke", overrides={"corpus.base_url": address}).corpus.base_url == address


def test_secrets_of_the_environment_never_pass_a_log_handler(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh12345678")
    monkeypatch.setenv("SOME_PASSWORD", "short")  # too short to tell from ordinary words
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("dihal_core")
    logger.addHandler(handler)
    try:
        redaction.redact_logs()
        redaction.redact_logs()
        assert len([one for one in handler.filters if isinstance(one, redaction.Redaction)]) == 1
        logger.warning("asked with %s and %s", "hf_abcdefgh12345678", "short")
        try:
            raise ValueError("header Authorization: Bearer hf_abcdefgh12345678")
        except ValueError:
            logging.getLogger("dihal_core.corpus").exception("failed")
    finally:
        logger.removeHandler(handler)
    written = stream.getvalue()
    assert "hf_abcdefgh12345678" not in written
    assert f"asked with {redaction.HIDDEN} and short" in written
    assert f"Bearer {redaction.HIDDEN}" in written
    assert "Traceback" in written


WORKER = """
import logging
from tasks import workers
workers._prepare_process()
logging.getLogger("dihal_core.remote").info("asked with abcdefgh12345678secret")
"""


def test_a_worker_of_a_cluster_hides_secrets_too():
    secret = {"AWS_SECRET_ACCESS_KEY": "abcdefgh12345678secret"}  # pragma: allowlist secret
    done = subprocess.run([sys.executable, "-c", WORKER], env={**os.environ, **secret}, capture_output=True, text=True)
    assert done.stdout == f"INFO asked with {redaction.HIDDEN}\n", done.stderr
    assert "abcdefgh12345678secret" not in done.stderr


def test_a_run_of_a_deployment_is_held_to_the_permissions(prefect_server, home, monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    state = full_study(profile="smoke", overrides={"compute.archive_url": "/etc/dihal"}, return_state=True)
    assert state.name == "Failed"
    assert "lies outside DIHAL_HOME" in state.message
    assert not (home / "corpus").exists()
