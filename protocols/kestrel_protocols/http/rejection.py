"""Why a request is refused, with the status that says so and the reason that is recorded."""

from enum import Enum
from typing import Final

from kestrel_core.end_reason import EndReason

__all__ = ["HTTP2_REFUSAL", "Rejection"]

# What a client that speaks HTTP/2 is told in its own language: an empty SETTINGS frame, which a
# server sends first (RFC 9113, 3.4 and 6.5), and GOAWAY (6.8): no stream was processed, and the
# error is HTTP_1_1_REQUIRED (7).
HTTP2_REFUSAL: Final = bytes.fromhex(
    "000000 04 00 00000000"  # length, type, flags, stream
    "000008 07 00 00000000"
    "00000000 0000000d"  # last stream, error
)


class Rejection(Enum):
    """One way in which a request can be wrong: (what is wrong, status, end reason).

    The names and statuses follow Kestrel's `RequestRejectionReason`.
    """

    TLS_OVER_HTTP = ("TLS on a plain-text endpoint", 400, EndReason.TLS_NOT_SUPPORTED)
    INVALID_REQUEST_LINE = ("bad request line", 400, EndReason.INVALID_REQUEST_LINE)
    INVALID_REQUEST_TARGET = ("bad request target", 400, EndReason.INVALID_REQUEST_LINE)
    UNRECOGNIZED_HTTP_VERSION = ("unknown HTTP version", 505, EndReason.INVALID_HTTP_VERSION)
    HTTP2_PREFACE = ("HTTP/2 where HTTP/1 is spoken", 505, EndReason.INVALID_HTTP_VERSION)
    REQUEST_LINE_TOO_LONG = ("request line too long", 414, EndReason.MAX_REQUEST_LINE_EXCEEDED)
    OPTIONS_METHOD_REQUIRED = ("* is for OPTIONS alone", 405, EndReason.INVALID_REQUEST_LINE)
    CONNECT_METHOD_REQUIRED = (
        "an authority alone is for CONNECT",
        405,
        EndReason.INVALID_REQUEST_LINE,
    )
    CONNECT_WITH_BODY = ("CONNECT with a body", 400, EndReason.INVALID_REQUEST_HEADERS)
    INVALID_REQUEST_HEADER = ("bad header line", 400, EndReason.INVALID_REQUEST_HEADERS)
    HEADERS_TOO_LARGE = (
        "headers too large",
        431,
        EndReason.MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED,
    )
    TOO_MANY_HEADERS = ("too many headers", 431, EndReason.MAX_REQUEST_HEADER_COUNT_EXCEEDED)
    MISSING_HOST = ("no Host", 400, EndReason.INVALID_REQUEST_HEADERS)
    MULTIPLE_HOSTS = ("more than one Host", 400, EndReason.INVALID_REQUEST_HEADERS)
    INVALID_HOST = ("bad Host", 400, EndReason.INVALID_REQUEST_HEADERS)
    INVALID_CONTENT_LENGTH = ("bad Content-Length", 400, EndReason.INVALID_REQUEST_HEADERS)
    MULTIPLE_CONTENT_LENGTHS = (
        "more than one Content-Length",
        400,
        EndReason.INVALID_REQUEST_HEADERS,
    )
    LENGTH_AND_TRANSFER_ENCODING = (
        "both Content-Length and Transfer-Encoding",
        400,
        EndReason.INVALID_REQUEST_HEADERS,
    )
    FINAL_CODING_NOT_CHUNKED = (
        "the last transfer coding is not chunked",
        400,
        EndReason.INVALID_REQUEST_HEADERS,
    )
    UNKNOWN_TRANSFER_CODING = ("unknown transfer coding", 501, EndReason.INVALID_REQUEST_HEADERS)
    TRANSFER_ENCODING_HTTP10 = (
        "Transfer-Encoding in HTTP/1.0",
        400,
        EndReason.INVALID_REQUEST_HEADERS,
    )
    LENGTH_REQUIRED_HTTP10 = (
        "an HTTP/1.0 body without a length",
        400,
        EndReason.INVALID_REQUEST_HEADERS,
    )
    BAD_CHUNK_SIZE = ("bad chunk size", 400, EndReason.INVALID_BODY_FRAMING)
    BAD_CHUNK_SUFFIX = ("bad chunk end", 400, EndReason.INVALID_BODY_FRAMING)
    BAD_CHUNK_EXTENSION = ("bad chunk extension", 400, EndReason.INVALID_BODY_FRAMING)
    UNEXPECTED_END = (
        "the request ends too early",
        400,
        EndReason.UNEXPECTED_END_OF_REQUEST_CONTENT,
    )
    BODY_TOO_LARGE = ("body too large", 413, EndReason.MAX_REQUEST_BODY_SIZE_EXCEEDED)
    BODY_TIMEOUT = ("the body comes too slowly", 408, EndReason.MIN_REQUEST_BODY_DATA_RATE)
    HEADERS_TIMEOUT = ("headers took too long", 408, EndReason.REQUEST_HEADERS_TIMEOUT)

    def __init__(self, text: str, status: int, end_reason: EndReason) -> None:
        self.text = text
        self.status = status
        self.end_reason = end_reason
