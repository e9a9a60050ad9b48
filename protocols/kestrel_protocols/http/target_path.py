"""A target's path as routing should see it: decoded, and with its dot segments resolved."""

import re
from urllib.parse import unquote_to_bytes

__all__ = ["resolve_path"]

_ESCAPED_SLASH = re.compile(rb"(%2[Ff])")

# A path in which there is nothing to decode and nothing to resolve.
_PLAIN = re.compile(rb"(?:/(?!\.)[^%/]*)*+")


def resolve_path(raw_path: bytes) -> str:
    """Return `raw_path` decoded but for escaped slashes, and without dot segments.

    Dots that were escaped are dots (RFC 3986, 6.2.2.2), and what would climb above the root stays
    there (5.2.4). Bytes that are no UTF-8 become U+FFFD. What is not a path, as "*", is returned as
    it is.
    """
    if _PLAIN.fullmatch(raw_path) or not raw_path.startswith(b"/"):
        return raw_path.decode("ascii", "replace")
    decoded = b"".join(
        part if index % 2 else unquote_to_bytes(part)
        for index, part in enumerate(_ESCAPED_SLASH.split(raw_path))
    )
    segments: list[str] = []
    *inner, last = decoded.decode("utf-8", "replace")[1:].split("/")
    for segment in inner:
        if segment == "..":
            del segments[-1:]
        elif segment != ".":
            segments.append(segment)
    if last == "..":
        del segments[-1:]
    if last in (".", ".."):
        last = ""
    return "/" + "/".join([*segments, last])
