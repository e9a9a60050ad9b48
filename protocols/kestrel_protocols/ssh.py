"""SSH beside other protocols on one port: found here, spoken by the SSH server it is forwarded to."""

import attrs

from kestrel_core.protocol import Protocol, Sniff
from kestrel_protocols.forward import Forward

__all__ = ["SshForward"]

# How the one line begins that a client sends before everything else (RFC 4253, 4.2).
_BEGINNING = b"SSH-"


@attrs.define(eq=False)
class SshForward(Forward, Protocol):
    """Recognizes clients of SSH, and forwards their connections as they are to an SSH server.

    That server sees this program as its client: it cannot log, limit or ban the real addresses.
    """

    name = "ssh"

    def sniff(self, prefix: bytes) -> Sniff:
        """Recognize the version that a client says first.

        A client that waits for the server's version instead says nothing: see `Detect.silent`.
        """
        if prefix.startswith(_BEGINNING):
            return Sniff.YES
        return Sniff.MORE if _BEGINNING.startswith(prefix) else Sniff.NO
