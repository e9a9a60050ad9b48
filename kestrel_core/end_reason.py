"""Why a connection ended: one vocabulary for middleware, logs and the live table."""

from enum import Enum

__all__ = ["EndReason"]


class EndReason(Enum):
    """The first reason recorded on a connection wins.

    The values are the `error.type` words of Kestrel's `kestrel.connection.duration` metric where
    it has one, so that dashboards made for it fit. A reason joins when something records it.
    """

    # Ends that nobody needs to look at.
    COMPLETED = "completed"
    """The handler returned by itself."""
    PEER_CLOSED = "peer_closed"
    """The peer ended its side between messages."""
    SHUTDOWN = "shutdown"
    """The server was asked to drain and the connection had finished its work."""
    UPGRADED = "upgraded"
    """The application took the connection over, and returned."""
    MAX_REQUESTS_PER_CONNECTION_REACHED = "max_requests_per_connection_reached"
    MAX_CONNECTION_AGE_REACHED = "max_connection_age_reached"

    # The peer's doing.
    CONNECTION_RESET = "connection_reset"
    INVALID_REQUEST_LINE = "invalid_request_line"
    INVALID_REQUEST_HEADERS = "invalid_request_headers"
    INVALID_HTTP_VERSION = "invalid_http_version"
    INVALID_BODY_FRAMING = "invalid_body_reader_state"
    INVALID_INPUT = "invalid_input"
    """What it sent is not what the layer or protocol speaks that read it, and no reason is closer."""
    UNEXPECTED_END_OF_INPUT = "unexpected_end_of_input"
    """It ended its side in the middle of a message, and no reason is closer."""
    TLS_NOT_SUPPORTED = "tls_not_supported"
    UNEXPECTED_END_OF_REQUEST_CONTENT = "unexpected_end_of_request_content"
    TLS_HANDSHAKE_FAILED = "tls_handshake_failed"
    TLS_HANDSHAKE_TIMEOUT = "tls_handshake_timeout"
    TLS_TRUNCATED = "tls_truncated"
    """The peer went away without ending TLS, so that its last words may be missing."""
    TLS_ERROR = "tls_error"
    """What came after the handshake was no sound TLS."""
    PLAIN_HTTP_ON_TLS = "plain_http_on_tls"
    PROTOCOL_NOT_DETECTED = "protocol_not_detected"
    PROTOCOL_DETECTION_TIMEOUT = "protocol_detection_timeout"
    INVALID_PROXY_HEADER = "invalid_proxy_header"
    PROXY_HEADER_TIMEOUT = "proxy_header_timeout"
    PROXY_SOURCE_NOT_TRUSTED = "proxy_source_not_trusted"

    # A limit of ours (see `Limits`).
    MAX_CONCURRENT_CONNECTIONS_EXCEEDED = "max_concurrent_connections_exceeded"
    MAX_CONNECTIONS_PER_ADDRESS_EXCEEDED = "max_connections_per_address_exceeded"
    CONNECTION_RATE_EXCEEDED = "connection_rate_exceeded"
    ADDRESS_DENIED = "address_denied"
    IDLE_TIMEOUT = "idle_timeout"
    MAX_REQUEST_LINE_EXCEEDED = "max_request_line_size_exceeded"
    MAX_REQUEST_HEADERS_TOTAL_SIZE_EXCEEDED = "max_request_headers_total_size_exceeded"
    MAX_REQUEST_HEADER_COUNT_EXCEEDED = "max_request_header_count_exceeded"
    MAX_REQUEST_BODY_SIZE_EXCEEDED = "max_request_body_size_exceeded"
    KEEP_ALIVE_TIMEOUT = "keep_alive_timeout"
    REQUEST_HEADERS_TIMEOUT = "request_headers_timeout"
    REQUEST_BODY_DRAIN_TIMEOUT = "server_timeout"
    MIN_REQUEST_BODY_DATA_RATE = "min_request_body_data_rate"
    MIN_RESPONSE_DATA_RATE = "min_response_data_rate"
    MAX_REQUEST_TIME_EXCEEDED = "max_request_time_exceeded"

    # The application's or the server's doing.
    ABORTED_BY_APP = "aborted_by_app"
    ERROR_AFTER_STARTING_RESPONSE = "error_after_starting_response"
    RESPONSE_CONTENT_LENGTH_MISMATCH = "response_content_length_mismatch"
    FORWARD_TARGET_UNREACHABLE = "forward_target_unreachable"
    APP_SHUTDOWN_TIMEOUT = "app_shutdown_timeout"
    """The drain time ran out, or the server was aborted, with the connection still at work."""
    OTHER_ERROR = "other_error"
    """A handler or a middleware raised; the error log has the traceback."""
