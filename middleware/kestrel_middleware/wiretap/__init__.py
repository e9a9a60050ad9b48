"""Wiretap: what goes through a connection, at any layer, as a log and as a capture file.

`hex_dump`, `pcapng` and `tcp_stream` are pure; `capture_file` writes; `wiretap` is the middleware.
"""

from kestrel_middleware.wiretap.wiretap import Wiretap

__all__ = ["Wiretap"]
