import functools
import gzip
import http.server
import importlib.util
import os
import threading

import fsspec
import pytest

from dihal_core.corpus import opening
from dihal_core.corpus.opening import find_shards, join, open_stream, redacted
from dihal_core.errors import AssetError, ConfigError, NetworkError


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; some addresses answer as troubled servers do."""

    def do_GET(self):
        status = self.path.removeprefix("/status/")
        if self.path.startswith("/status/"):
            self.send_response(int(status))
            self.end_headers()
        elif self.path == "/silent":
            self.server.released.wait(10)
        elif self.path == "/broken":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "shard.json.gz").write_bytes(gzip.compress(b"hello"))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.released = threading.Event()
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.released.set()
        running.shutdown()


def read(url):
    with open_stream(url) as handle:
        return b"".join(iter(lambda: handle.read(3), b""))


def test_the_same_bytes_come_from_a_path_a_file_url_http_and_any_other_file_system(folder, server):
    stored = (folder / "shard.json.gz").read_bytes()
    with fsspec.open("memory://bucket/shard.json.gz", "wb") as handle:
        handle.write(stored)
    for root in (str(folder), f"file://{folder}", server, "memory://bucket"):
        assert read(join(root, "shard.json.gz")) == stored


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/nothing.gz", AssetError, "/nothing.gz answers 404; set corpus.base_url to a mirror"),
        ("/status/403", AssetError, "answers 403; check your credentials"),
        ("/status/410", AssetError, "answers 410"),
        ("/status/500", NetworkError, "answers 500; try again later"),
        ("/status/429", NetworkError, "answers 429; try again later"),
        ("/broken", NetworkError, "reading it broke off"),
    ],
)
def test_what_a_server_answers_is_told_apart(server, path, error, message):
    with pytest.raises(error, match=message):
        read(f"{server}{path}")


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(server, monkeypatch):
    monkeypatch.setattr(opening, "TIMEOUT_SECONDS", 0.3)
    with pytest.raises(NetworkError, match=r"/silent gave no answer within 0\.3 s"):
        read(f"{server}/silent")


def test_an_unreachable_host_a_missing_object_and_an_unknown_scheme_are_named():
    with pytest.raises(NetworkError, match="could not be reached"):
        read("http://127.0.0.1:9/shard.gz")
    with pytest.raises(AssetError, match="memory://bucket/nothing.gz does not exist"):
        read("memory://bucket/nothing.gz")
    with pytest.raises(ConfigError, match="give a local folder, https://, s3://"):
        read("gopher2://host/shard.gz")


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="the package of this scheme is installed")
def test_a_scheme_whose_package_is_missing_names_the_extra_that_brings_it():
    with pytest.raises(ConfigError, match=r"pip install 'dihal\[s3\]'"):
        open_stream("s3://bucket/shard.json.gz")


def test_no_password_is_shown():
    assert redacted("https://me:secret@host.org/a/b?token=1") == "https://host.org/a/b"  # pragma: allowlist secret
    with pytest.raises(NetworkError) as caught:
        open_stream("http://me:secret@127.0.0.1:9/a")  # pragma: allowlist secret
    assert "secret" not in str(caught.value).split("(")[0]


# ---------------------------------------------------------------------------------- listing
@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for name, data in {
        "web/part-1.jsonl": b'{"id": "a"}\n',
        "web/part-0.json.zst": b"(",
        "books/b.gz": gzip.compress(b"{}"),
        "books/wrong.txt": gzip.compress(b"{}"),
        "books/unnamed": b' \n{"id": "a"}\n',
        "books/README.md": b"# Books\n",
        "top.json": b"",
        ".hidden/x.json": b"{}",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_shards_are_found_by_name_and_by_content(tree):
    found = find_shards(str(tree))
    assert [name for name, _ in found.shards] == [
        *("books/b.gz", "books/unnamed", "books/wrong.txt", "top.json", "web/part-0.json.zst", "web/part-1.jsonl")
    ]
    assert dict(found.shards)["web/part-1.jsonl"] == 12
    assert found.ignored == ("books/README.md",)
    assert found.unreadable == ()


def test_folders_called_like_shards_pipes_dead_links_and_circles_neither_hang_nor_hide(tree):
    (tree / "folder.json.gz").mkdir()
    (tree / "folder.json.gz" / "inner.jsonl").write_bytes(b"{}\n")
    os.mkfifo(tree / "pipe.gz")
    (tree / "gone.jsonl").symlink_to(tree / "nowhere")
    (tree / "web" / "back").symlink_to(tree)
    found = find_shards(str(tree))
    assert dict(found.unreadable) == {
        "folder.json.gz": "folder_instead_of_a_file",
        "pipe.gz": "not_a_regular_file",
        "gone.jsonl": "missing_file",
    }
    assert "folder.json.gz/inner.jsonl" in dict(found.shards)
    assert len(found.shards) == 7


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tree):
    (tree / "top.json").chmod(0)
    (tree / "web").chmod(0)
    try:
        assert dict(find_shards(str(tree)).unreadable) == {"top.json": "permission_denied", "web": "permission_denied"}
    finally:
        (tree / "web").chmod(0o755)


def test_a_remote_folder_is_listed_by_name(tree):
    for path in tree.rglob("*"):
        if path.is_file():
            with fsspec.open(f"memory://listed/{path.relative_to(tree).as_posix()}", "wb") as handle:
                handle.write(path.read_bytes())
    found = find_shards("memory://listed")
    assert ("web/part-1.jsonl", 12) in found.shards
    assert "books/wrong.txt" in found.ignored


def test_a_root_that_is_no_folder_is_named(tree):
    with pytest.raises(ConfigError, match="is no folder"):
        find_shards(str(tree / "top.json"))
