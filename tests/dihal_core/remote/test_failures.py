import errno

import pytest

from dihal_core.errors import ConfigError, NetworkError, ResourceError
from dihal_core.remote.failures import brief, insist


class Storage:
    """Fails as often as told, then answers."""

    def __init__(self, *errors: Exception):
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_what_may_pass_is_tried_again():
    storage = Storage(ConnectionResetError("reset by peer"), TimeoutError("slow"), OSError(errno.EIO, "503 slow down"))
    assert insist("s3://b/x", "reading y", storage) == "answer"
    assert storage.calls == 4


def test_what_does_not_pass_is_a_network_error_that_says_the_work_is_kept():
    storage = Storage(*[ConnectionError("no route to host")] * 9)
    with pytest.raises(NetworkError, match=r"s3://b/x: reading y failed after 4 attempts.*no route.*only uploaded"):
        insist("s3://b/x", "reading y", storage)
    assert storage.calls == 4


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (PermissionError("Access Denied"), ResourceError, "AWS_SECRET_ACCESS_KEY"),
        (RuntimeError("Unable to locate credentials"), ResourceError, "permission denied"),
        (NotImplementedError("read only"), ConfigError, "can be written"),
        (ImportError("Install s3fs"), ConfigError, r"dihal\[s3\]"),
    ],
)
def test_what_trying_cannot_mend_is_said_at_once(error: Exception, kind: type[Exception], words: str):
    storage = Storage(error)
    with pytest.raises(kind, match=words):
        insist("s3://b/x", "writing y", storage)
    assert storage.calls == 1


@pytest.mark.parametrize("answer", [FileNotFoundError("no such key"), FileExistsError("there")])
def test_a_missing_or_present_object_is_an_answer(answer: Exception):
    with pytest.raises(type(answer)):
        insist("s3://b/x", "reading y", Storage(answer))


def test_a_full_disk_of_this_machine_is_passed_on_as_it_is():
    with pytest.raises(OSError, match="full") as caught:
        insist("s3://b/x", "fetching y", Storage(OSError(errno.ENOSPC, "full")))
    assert caught.value.errno == errno.ENOSPC


def test_a_command_that_only_looks_asks_once():
    storage = Storage(*[ConnectionError("no route to host")] * 9)
    with brief(), pytest.raises(NetworkError, match=r"s3://b/x: listing y failed after 1 attempt \("):
        insist("s3://b/x", "listing y", storage)
    assert storage.calls == 1
    assert insist("s3://b/x", "listing y", Storage(ConnectionError("once"))) == "answer"
