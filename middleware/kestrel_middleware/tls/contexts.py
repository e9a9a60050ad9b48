"""Contexts of OpenSSL for the server's side, made from options once and made anew on change.

Theory of operation. A context costs milliseconds and holds what makes sessions resumable, so there
is one for each combination of options and ALPN names, kept until a thousand others were used since
(a callback may have any number of certificates). When one is asked for, and the
last look is `check_seconds` ago, its files are looked at; if one has changed, a new context is made,
and the old one goes on serving its connections. If none can be made (a file is half written, say),
the old one stays and an error is logged, once for each change.
"""

import logging
import math
import ssl
from pathlib import Path

import attrs
import trio

from kestrel_core.errors import ConfigurationError
from kestrel_middleware.tls.certificate import (
    Certificate,
    Signature,
    load_authorities,
    signature_of,
)
from kestrel_middleware.tls.options import ClientCertificates, TlsOptions, TlsVersion

__all__ = ["ServerContext", "ServerContexts"]

_log = logging.getLogger("kestrel.tls")

# Each has some 25 KiB.
_MOST_KEPT = 1000


@attrs.frozen(eq=False)
class ServerContext:
    """A context, and what is known about it that it does not tell itself."""

    context: ssl.SSLContext
    certificate: bytes | None
    """The certificate that it shows, in DER, or None if that is not known."""


@attrs.define(eq=False)
class _Kept:
    current: ServerContext
    signature: Signature
    checked_at: float
    """In trio's time, which begins anew with each run: one in the future is of an earlier run."""


class ServerContexts:
    """Makes contexts and keeps them; see the module.

    `session_tickets` and `key_log_file` are as `Tls` has them, and the same for all.
    """

    def __init__(
        self, *, session_tickets: int, key_log_file: Path | None, check_seconds: float | None
    ) -> None:
        self._session_tickets = session_tickets
        self._key_log_file = key_log_file
        self._check_seconds = check_seconds
        self._kept: dict[tuple[TlsOptions, tuple[str, ...]], _Kept] = {}

    def get(self, options: TlsOptions, alpn: tuple[str, ...]) -> ServerContext:
        """Return the context for `options`, which offers `alpn` unless they say otherwise.

        Raises:
            ConfigurationError: a new one cannot be made.
        """
        if options.alpn is not None:
            alpn = tuple(options.alpn)
        kept = self._kept.pop((options, alpn), None)
        is_new = kept is None
        kept = kept or self._keep(options, alpn)
        self._kept[options, alpn] = kept  # behind all that were used before
        if is_new:
            if len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        elif self._check_seconds is not None:
            now = _now()
            if not 0 <= now - kept.checked_at < self._check_seconds:
                kept.checked_at = now
                self._check(kept, options, alpn)
        return kept.current

    def reload(self) -> None:
        """Make all contexts anew, from the files as they are now.

        Raises:
            ConfigurationError: one cannot be made; nothing has changed then.
        """
        made = {(options, alpn): self._keep(options, alpn) for options, alpn in self._kept}
        self._kept.update(made)

    def _keep(self, options: TlsOptions, alpn: tuple[str, ...]) -> _Kept:
        signature = _signature(options)  # first, so that what changes meanwhile is noticed
        return _Kept(self._make(options, alpn), signature, _now())

    def _check(self, kept: _Kept, options: TlsOptions, alpn: tuple[str, ...]) -> None:
        signature = _signature(options)
        if signature == kept.signature:
            return
        kept.signature = signature  # so that a bad file is complained of once
        try:
            kept.current = self._make(options, alpn)
        except ConfigurationError as error:
            _log.error("the new certificate is not used; the old one still is: %s", error)
        else:
            _log.info("loaded the new certificate from %s", options.certificate)

    def _make(self, options: TlsOptions, alpn: tuple[str, ...]) -> ServerContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = (options.minimum_version or TlsVersion.TLS_1_2).number
        # Renegotiation is a door for overload, and HTTP/2 forbids it (RFC 9113, 9.2.1).
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        if options.ciphers is not None:
            try:
                context.set_ciphers(options.ciphers)
            except ssl.SSLError as error:
                raise ConfigurationError(
                    f"OpenSSL knows no cipher in {options.ciphers!r}"
                ) from error
        if not self._session_tickets:
            context.options |= ssl.OP_NO_TICKET
        context.num_tickets = self._session_tickets
        if self._key_log_file is not None:
            _log_keys(context, self._key_log_file)
        _ask_clients(context, options)
        if alpn:
            context.set_alpn_protocols(alpn)
        if options.certificate is None:
            raise ConfigurationError("TLS needs a certificate; give it as `certificate`")
        shown = Certificate(options.certificate, options.key, options.password, options.chain)
        return ServerContext(context, shown.load_into(context))


def _now() -> float:
    """Return trio's time; outside of a run, a time after which everything is due."""
    try:
        return trio.current_time()
    except RuntimeError:
        return -math.inf


def _ask_clients(context: ssl.SSLContext, options: TlsOptions) -> None:
    asked = options.client_certificates or ClientCertificates.NONE
    if asked is ClientCertificates.NONE:
        return
    if options.client_authorities is None:
        raise ConfigurationError(
            "clients are asked for certificates, but client_authorities, which says who may"
            " certify them, is not given"
        )
    load_authorities(context, options.client_authorities, "client_authorities")
    context.verify_mode = asked.verify_mode


def _log_keys(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.keylog_filename = str(path)
    except OSError as error:
        raise ConfigurationError(
            f"the key log file {path} cannot be written: {error.strerror}"
        ) from error


def _signature(options: TlsOptions) -> Signature:
    return signature_of(options.certificate, options.key, options.chain, options.client_authorities)
