"""What a TLS client says first: told from other bytes, read, and fingerprinted, without any I/O.

Import from here; the modules are private to the package.
"""

from kestrel_middleware.client_hello._fingerprint import ja4
from kestrel_middleware.client_hello._message import (
    BadClientHello,
    parse_client_hello,
    server_name_of,
)
from kestrel_middleware.client_hello._records import (
    ClientHelloReader,
    read_client_hello,
    sniff_tls,
)

__all__ = [
    "BadClientHello",
    "ClientHelloReader",
    "ja4",
    "parse_client_hello",
    "read_client_hello",
    "server_name_of",
    "sniff_tls",
]
