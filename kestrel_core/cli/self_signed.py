"""A certificate for development, and the authority that it is to be checked against."""

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from kestrel_core.errors import MissingExtraError

__all__ = ["LOCAL_NAMES", "SelfSigned", "self_signed"]

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@attrs.frozen
class SelfSigned:
    """A certificate with its key, known to this process alone, and its authority's file."""

    names: Sequence[str]
    """The hosts that it is for."""

    certificate: bytes = attrs.field(repr=False)
    """The private key and the certificate, in PEM."""

    authority: Path
    """The certificate of the authority, to give to clients."""


@contextmanager
def self_signed(names: Sequence[str]) -> Generator[SelfSigned]:
    """Make a certificate for `names`; its authority's file is there as long as the block runs.

    The authority is made for the occasion, and nobody has its key.

    Raises:
        MissingExtraError: the library that makes certificates is not installed.
    """
    try:
        import trustme
    except ImportError as error:
        raise MissingExtraError(
            "--tls self-signed needs the library 'trustme';"
            " install it with: pip install 'trio-kestrel[self-signed]'"
        ) from error
    authority = trustme.CA(organization_name="kestrel, for development")
    certificate = authority.issue_cert(*names)
    with tempfile.TemporaryDirectory(prefix="kestrel-") as folder:
        path = Path(folder, "ca.pem")
        authority.cert_pem.write_to_path(path)
        yield SelfSigned(names, certificate.private_key_and_cert_chain_pem.bytes(), path)
