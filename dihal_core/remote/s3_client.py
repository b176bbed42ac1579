"""Bounds on the waits of the S3 client: those that its own two timeouts leave open.

`connect_timeout` and `read_timeout` of botocore cover a server that takes no connection and one that has a whole request
and does not answer. Two waits are left, for ever without this module: for "100 Continue" before the body of a PUT is
sent, and for room in the connection while it is sent. Both were seen with a server that accepts and says nothing.
"""

import socket
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from aiohttp.connector import AddrInfoType

UNSENT_BYTES = 2**18
"""What the kernel may hold of a request beyond what is on its way: the wait for the answer begins when it has the rest,
and megabytes of it on a slow line would pass for silence."""


class UnaskedSession(AIOHTTPSession):
    """Sends the body of a request without asking for leave: the client waits for that leave without a limit."""

    async def send(self, request: Any) -> Any:
        """Send one request; the header is none of those that are signed."""
        if "Expect" in request.headers:
            del request.headers["Expect"]
        return await super().send(request)


class GuardedSockets:
    """Makes sockets whose data must move: the kernel ends a connection that takes nothing for `seconds` (Linux)."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, address: AddrInfoType) -> socket.socket:
        """Return a new socket for `address`."""
        family, kind, protocol, _, _ = address
        made = socket.socket(family=family, type=kind, proto=protocol)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self.seconds))
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        return made

    def __repr__(self) -> str:
        return f"GuardedSockets({self.seconds})"  # fsspec tells its file systems apart by their options' text


def bounded(connect_s: float, answer_s: float, attempts: int | None) -> dict[str, Any]:
    """Return options of the client's configuration.

    Parameters
    ----------
    connect_s, answer_s
        Seconds for a connection, and for anything to move on one that was made.
    attempts
        How often one request is sent; None: what the environment says.
    """
    options: dict[str, Any] = {
        "connect_timeout": connect_s,
        "read_timeout": answer_s,
        "http_session_cls": UnaskedSession,
        "connector_args": {"socket_factory": GuardedSockets(answer_s)},
    }
    return options if attempts is None else {**options, "retries": {"total_max_attempts": attempts}}
