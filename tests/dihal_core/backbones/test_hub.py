"""A hub id in place of a preset, against a small hub on loopback."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path
from typing import ClassVar

import huggingface_hub.constants
import pytest

from dihal_core.backbones.loading import load_backbone
from dihal_core.backbones.tokenizers import byte_tokenizer
from dihal_core.errors import ConfigError, NetworkError
from dihal_core.profiles import backbone_names, load_study
from dihal_core.study import study_name

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "c" * 40
LLAMA = {"model_type": "llama", "num_hidden_layers": 6, "hidden_size": 64, "vocab_size": 300}


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the files of models as the hub does: `/<id>/resolve/<revision>/<file>` and the commit of a branch."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {}

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0]).strip("/")
        if path.startswith("api/models/"):
            organisation, name, *asked = path.removeprefix("api/models/").split("/")
            model = f"{organisation}/{name}"
            body = json.dumps({"id": model, "sha": COMMIT}).encode()
            here = model in self.files
            known = here and (not asked or asked[0] == "revision")  # no folder of chat templates
            return self.answer(body if known else None, "EntryNotFound" if here else "RepoNotFound")
        model, _, rest = path.partition("/resolve/")
        body = self.files.get(model, {}).get(rest.partition("/")[2])
        return self.answer(body, "EntryNotFound" if model in self.files else "RepoNotFound")

    do_HEAD = do_GET

    def answer(self, body: bytes | None, missing: str):
        self.send_response(404 if body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", missing)
        else:
            self.send_header("ETag", f'"{len(body)}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield Hub.files
    server.shutdown()
    server.server_close()
    Hub.files.clear()


def served(config: dict, **tokenizer) -> dict[str, bytes]:
    return {"config.json": json.dumps(config).encode(), "tokenizer_config.json": json.dumps(tokenizer).encode()}


def test_a_hub_id_without_a_preset_is_a_backbone_of_its_own(hub):
    hub["someone/small"] = served(LLAMA, bos_token="<s>")
    settings = load_study("smoke", "someone/small")
    found = settings.backbone
    assert (found.source, found.identifier, found.name) == ("hub", "someone/small", "small")
    assert (found.num_layers, found.hidden_size, found.vocab_size) == (6, 64, 300)
    assert found.separator_token == "<s>"  # its tokenizer has no <|endoftext|>
    assert study_name(settings).startswith("smoke-small-s0-")
    hub.clear()
    assert load_study("smoke", "someone/small") == settings  # what was downloaded does without the network


def test_the_pretraining_separator_is_preferred_to_a_chat_bos_token(hub):
    hub["someone/chatty"] = served(
        LLAMA, bos_token="<|im_start|>", added_tokens_decoder={"0": {"content": "<|endoftext|>"}}
    )
    assert load_study("smoke", "someone/chatty").backbone.separator_token == "<|endoftext|>"
    hub["someone/wordless"] = {"config.json": json.dumps(LLAMA).encode()}
    assert load_study("smoke", "someone/wordless").backbone.separator_token == "<|endoftext|>"


def test_the_hub_id_of_a_preset_is_that_preset(hub):
    assert load_study("paper-qwen3-8b", "Qwen/Qwen3-8B") == load_study("paper-qwen3-8b", "qwen3-8b")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (served({**LLAMA, "model_type": "mamba"}), "of family 'mamba', which is not supported; supported are gemma2"),
        ({"model.gguf": b"GGUF"}, "has no config.json"),
        ({"config.json": b"{"}, "is unreadable"),
        (served({"model_type": "llama"}), "lacks a shape"),
        (None, "knows no model 'someone/odd'"),
    ],
)
def test_what_cannot_be_studied_is_one_sentence_that_says_what_can(hub, files, message):
    if files is not None:
        hub["someone/odd"] = files
    with pytest.raises(ConfigError, match=message) as told:
        load_study("smoke", "someone/odd")
    said = str(told.value)
    assert "\n" not in said
    if files is None or b"mamba" in files.get("config.json", b""):
        assert all(name in said for name in backbone_names())
        assert "a preset is a table in dihal_core/profiles/backbones.toml" in said


@pytest.mark.parametrize(
    "name", ["models/x--y", "org/x..y", "org/x.git", "org/x-", "org/" + "x" * 120, "org/mod\u00e8le"]
)
def test_a_name_that_no_hub_takes_is_refused_in_a_sentence(hub, name):
    with pytest.raises(ConfigError, match=r"smollm2-135m"):
        load_study("smoke", backbone=name)


def test_a_hub_that_does_not_answer_is_no_wrong_name(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"http://127\.0\.0\.1:9 does not answer for 'someone/small'"):
        load_study("smoke", "someone/small")


@pytest.mark.slow
def test_a_study_of_a_hub_model_that_has_no_preset(hub, tmp_path):
    preset = load_study("smoke").backbone
    folder = tmp_path / "model"
    load_backbone(preset, {}, seed=0).model.save_pretrained(folder)
    byte_tokenizer(preset).save_pretrained(folder)
    hub["someone/tiny"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "flows.cli", "study", "--profile", "smoke", "--backbone", "someone/tiny"]
    port = os.environ.get("DIHAL_TEST_PORT", "4930")
    home = ["--home", str(tmp_path / "runs")]
    try:
        done = subprocess.run(
            [*words, "--port", port, *home], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        down = [sys.executable, "-m", "flows.cli", "down", *home]
        subprocess.run(down, env=environment, cwd=tmp_path, capture_output=True, timeout=60)
    (result,) = (tmp_path / "runs" / "studies").glob("smoke-tiny-s0-*/study.json")
    found = json.loads(result.read_bytes())
    assert found["settings"]["backbone"]["revision"] == COMMIT
    assert found["backbone_identity"] == {"source": "hub", "id": "someone/tiny", "revision": COMMIT}
