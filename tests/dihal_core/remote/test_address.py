from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dihal_core.errors import ConfigError
from dihal_core.remote.address import MARKER, canonical, is_inside, remote_address, working_copy
from dihal_core.remote.link import home_path, home_uri
from dihal_core.store import resolve_home


def test_an_address_loses_its_trailing_slash_and_doubled_ones():
    assert canonical("s3://bucket//runs/") == "s3://bucket/runs"
    assert canonical("file:///data/runs/") == "file:///data/runs"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("s3://KEYID:HUSH@bucket/runs", "user name or password"),  # pragma: allowlist secret
        ("s3://bucket/runs?X-Amz-Signature=HUSH", "options"),
        ("s3://bucket/runs#HUSH", "options"),
        ("s3://bucket/../other", "'..'"),
        ("s3://", "no bucket"),
        ("https://example.org/runs", "cannot be written"),
        ("simplecache::s3://bucket/runs", "chains"),
    ],
)
def test_an_address_that_will_not_do_is_refused_without_repeating_a_secret(text: str, word: str):
    with pytest.raises(ConfigError, match=word) as caught:
        canonical(text)
    assert "HUSH" not in str(caught.value)
    assert "KEYID" not in str(caught.value)


def test_a_home_has_the_same_working_copy_each_time_and_says_its_address(machine, tmp_path: Path):
    first = resolve_home("s3://bucket/runs/")
    assert first == resolve_home("s3://bucket/runs") == working_copy("s3://bucket/runs")
    assert first.is_relative_to(tmp_path / "machines" / "first")
    assert remote_address(first) == home_uri(first) == "s3://bucket/runs"
    assert home_path(home_uri(first)) == first
    assert resolve_home("s3://bucket/other") != first


def test_many_threads_may_ask_for_a_working_copy_at_once(machine):
    with ThreadPoolExecutor(16) as pool:
        for round_ in range(20):
            folders = set(pool.map(working_copy, [f"s3://bucket/runs-{round_}"] * 16))
            assert len(folders) == 1


def test_a_local_home_is_its_folder_and_gets_no_marker(tmp_path: Path):
    home = resolve_home(tmp_path / "runs")
    assert home == tmp_path / "runs"
    assert home_uri(home) == str(home)
    assert not (home / MARKER).exists()


def test_names_that_leave_their_folder_are_seen():
    assert is_inside("a/b.bin")
    assert not any(map(is_inside, ["../a", "a/../../b", "/etc/passwd", "", "a//b", "./a"]))
