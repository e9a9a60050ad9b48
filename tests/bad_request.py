"""The terms of the rejection table: a row, and the answer to each reason why a request is refused."""

import attrs

from kestrel_core.end_reason import EndReason
from kestrel_core.limits import Limits
from kestrel_protocols.http.rejection import Rejection

__all__ = ["ANSWERS", "SMALL", "Bad"]

ANSWERS = {
    Rejection.TLS_OVER_HTTP: (400, EndReason.TLS_NOT_SUPPORTED),
    Rejection.INVALID_REQUEST_LINE: (400, EndReason.INVALID_REQUEST_LINE),
    Rejection.INVALID_REQUEST_TARGET: (400, EndReason.INVALID_REQUEST_LINE),
    Rejection.UNRECOGNIZED_HTTP_VERSION: (505, EndReason.INVALID_HTTP_VERSION),
    Rejection.HTTP2_PREFACE: (None, EndReason.INVALID_HTTP_VERSION),
    Rejection.REQUEST_LINE_TOO_LONG: (414, EndReason.MAX_REQUEST_LINE_EXCEEDED),
    Rejection.OPTIONS_METHOD_REQUIRED: (405, EndReason.INVALID_REQUEST_LINE),
    Rejection.CONNECT_METHOD_REQUIRED: (405, EndReason.INVALID_REQUEST_LINE),
    Rejection.CONNECT_WITH_BODY: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.INVALID_REQUEST_HEADER: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.HEADERS_TOO_LARGE: (431, EndReason.MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED),
    Rejection.TOO_MANY_HEADERS: (431, EndReason.MAX_REQUEST_HEADER_COUNT_EXCEEDED),
    Rejection.MISSING_HOST: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.MULTIPLE_HOSTS: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.INVALID_HOST: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.INVALID_CONTENT_LENGTH: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.MULTIPLE_CONTENT_LENGTHS: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.LENGTH_AND_TRANSFER_ENCODING: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.FINAL_CODING_NOT_CHUNKED: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.UNKNOWN_TRANSFER_CODING: (501, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.TRANSFER_ENCODING_HTTP10: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.LENGTH_REQUIRED_HTTP10: (400, EndReason.INVALID_REQUEST_HEADERS),
    Rejection.BAD_CHUNK_SIZE: (400, EndReason.INVALID_BODY_FRAMING),
    Rejection.BAD_CHUNK_SUFFIX: (400, EndReason.INVALID_BODY_FRAMING),
    Rejection.BAD_CHUNK_EXTENSION: (400, EndReason.INVALID_BODY_FRAMING),
    Rejection.UNEXPECTED_END: (400, EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT),
    Rejection.BODY_TOO_LARGE: (413, EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED),
    Rejection.BODY_TIMEOUT: (408, EndReason.MIN_REQUEST_BODY_DATA_RATE),
    Rejection.HEADERS_TIMEOUT: (408, EndReason.REQUEST_HEADERS_TIMEOUT),
}
"""The status that a client is told, if it speaks HTTP/1, and the reason that is recorded."""

DEFAULT = Limits()

SMALL = Limits(
    max_request_line_bytes=64,
    max_request_headers_bytes=128,
    max_request_header_count=4,
    max_request_body_bytes=20,
)


@attrs.frozen
class Bad:
    """What a client sends, and how it is refused."""

    name: str
    sent: bytes
    rejection: Rejection
    allow: bytes | None = None
    ends: bool = False
    """Whether the client ends its side then; otherwise it is silent."""
    limits: Limits = DEFAULT
