"""What a finished handshake says, as a `TlsInfo`."""

import ssl
from typing import cast

from kestrel_core.features import TlsInfo

__all__ = ["tls_info"]

# RFC 4514, 3: these attribute types have short names; others go by OpenSSL's own.
_SHORT_NAMES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}


# IANA's numbers of cipher suites, by OpenSSL's names, as far as they were met.
_suite_numbers: dict[str, int] = {}


def tls_info(
    session: ssl.SSLObject, *, server_name: str | None, own_certificate: bytes | None
) -> TlsInfo:
    """Return what `session`, whose handshake is over, has agreed on."""
    cipher = session.cipher()
    name = cipher[0] if cipher is not None else ""
    certificate = session.getpeercert(binary_form=True)
    return TlsInfo(
        version=session.version() or "",
        cipher=name,
        cipher_suite=_suite_number(session, name),
        alpn=session.selected_alpn_protocol(),
        server_name=server_name,
        resumed=bool(session.session_reused),
        peer_certificates=_chain(session, certificate) if certificate else (),
        peer_name=_subject(session) if certificate else None,
        own_certificate=own_certificate,
    )


def _suite_number(session: ssl.SSLObject, name: str) -> int | None:
    if name not in _suite_numbers:
        # OpenSSL's ids are IANA's numbers below a protocol number of its own.
        known = session.context.get_ciphers()
        _suite_numbers.update({each["name"]: each["id"] & 0xFFFF for each in known})
    return _suite_numbers.get(name)


def _chain(session: ssl.SSLObject, certificate: bytes) -> tuple[bytes, ...]:
    get_chain = getattr(session, "get_unverified_chain", None)  # from Python 3.13 on
    chain = tuple(get_chain()) if get_chain is not None else ()
    # A server has the client's certificate apart from the chain, a client has it in there.
    return chain if chain[:1] == (certificate,) else (certificate, *chain)


def _subject(session: ssl.SSLObject) -> str | None:
    verified = session.getpeercert()
    if not verified:
        return None
    parts = cast("tuple[tuple[tuple[str, str], ...], ...]", verified.get("subject", ()))
    names = [
        "+".join([f"{_SHORT_NAMES.get(kind, kind)}={_escaped(value)}" for kind, value in part])
        for part in parts
    ]
    return ",".join(reversed(names))


def _escaped(value: str) -> str:
    """Return an attribute's value as RFC 4514, 2.4 writes it."""
    escaped = "".join(f"\\{char}" if char in '"+,;<>\\' else char for char in value)
    escaped = escaped.replace("\0", "\\00")
    if escaped.startswith((" ", "#")):
        escaped = f"\\{escaped}"
    if escaped.endswith(" ") and len(value) > 1:
        escaped = f"{escaped[:-1]}\\ "
    return escaped
