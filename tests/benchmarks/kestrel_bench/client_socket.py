"""Connections of the run's own clients, with TLS and without.

A client over TLS wants TLS 1.3 and nothing older, resumes no session, and verifies no certificate,
which would only take time away from the load.
"""

import socket
import ssl

CIPHER = "TLS_AES_256_GCM_SHA384"
"""What OpenSSL, and so wrk, asks for first, and what every server here agrees to."""


def unverified_context() -> ssl.SSLContext:
    """Returns what a client's TLS is configured with here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


_CONTEXT = unverified_context()


def connect(port: int, *, tls: bool, seconds: float) -> socket.socket:
    """Returns a connection to the server on the port; no call on it takes longer than that."""
    connection = socket.create_connection(("127.0.0.1", port), seconds)
    if not tls:
        return connection
    try:
        return _CONTEXT.wrap_socket(connection)
    except BaseException:
        connection.close()
        raise
