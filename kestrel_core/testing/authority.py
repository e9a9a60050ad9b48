"""A certificate authority for tests; it needs the extra `testing`."""

from datetime import datetime

import attrs
import trustme

__all__ = ["Authority", "Identity"]


@attrs.frozen
class Identity:
    """Who somebody is, in PEM: what a server, or a client that is asked, shows and proves."""

    certificate_chain: bytes
    """The certificate, and behind it those of all authorities between it and the root."""
    key: bytes = attrs.field(repr=False)


class Authority:
    """An authority that nobody trusts who is not told to.

    One with an `issuer` is trusted by those who trust that, as what it issues has its certificate
    along. Keys are of P-256, so making an authority, or issuing, takes less than half a millisecond,
    and there is no need to share them::

        authority = Authority()
        identity = authority.issue("testserver")
        server = Tls(certificate=identity.certificate_chain, key=identity.key)
        client = TlsClient(authorities=authority.pem)
    """

    def __init__(self, issuer: "Authority | None" = None) -> None:
        self._authority: trustme.CA = (
            trustme.CA() if issuer is None else issuer._authority.create_child_ca()
        )

    @property
    def pem(self) -> bytes:
        """Its own certificate, for whoever is to trust it."""
        return self._authority.cert_pem.bytes()

    def issue(
        self,
        *names: str,
        common_name: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Identity:
        """Return a new identity that this authority vouches for, for servers and for clients.

        A name is a host's, with a "*" as its first label or without, an IP address or network, or
        an e-mail address. A client may do with a `common_name` alone. It is good from `not_before`,
        the year 2000 unless given, to `not_after`, the year 3000.

        Raises:
            ValueError: there is neither a name nor a `common_name`, or a name is none.
        """
        issued = self._authority.issue_cert(
            *names, common_name=common_name, not_before=not_before, not_after=not_after
        )
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        return Identity(chain, issued.private_key_pem.bytes())
