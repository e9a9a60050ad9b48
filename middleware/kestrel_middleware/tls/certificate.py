"""Certificates and keys: where they come from, and whether they have changed since."""

import os
import re
import ssl
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

import attrs

from kestrel_core.errors import ConfigurationError

__all__ = [
    "Certificate",
    "Pem",
    "Signature",
    "load_authorities",
    "pem",
    "shown",
    "signature_of",
]

Pem: TypeAlias = Path | bytes
"""PEM: the path of a file, or the data itself."""

_FIRST_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)

Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]
"""What changes when a file does."""


def pem(given: str | bytes | os.PathLike[str]) -> Pem:
    """Return `given` as `Pem`, for attrs fields; text is the path of a file."""
    return given if isinstance(given, bytes) else Path(given)


def shown(source: Pem | None) -> str:
    """Return how attrs fields show `source`: data not at all, for a key belongs in no log."""
    return "..." if isinstance(source, bytes) else repr(source)


def _read_pem(source: Pem, what: str) -> bytes:
    """Return the data of `source`, which is `what`.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the {what} {source} cannot be read: {error.strerror}") from error


@attrs.frozen
class Certificate:
    """A certificate with its key, and maybe the chain that leads to an authority.

    `key` is in the certificate's own file unless it is given. `chain` are intermediate
    certificates that the certificate's file lacks.
    """

    certificate: Pem = attrs.field(repr=shown)
    key: Pem | None = attrs.field(repr=shown)
    password: str | None = attrs.field(repr=False)
    chain: Pem | None

    def load_into(self, context: ssl.SSLContext) -> bytes:
        """Have `context` show this certificate; return the certificate in DER.

        Raises:
            ConfigurationError: it cannot be read, or the key is not its key.
        """
        chain = _read_pem(self.certificate, "certificate")
        first = _FIRST_CERTIFICATE.search(chain)
        if first is None:
            where = self.certificate if isinstance(self.certificate, Path) else "its data"
            raise ConfigurationError(f"there is no certificate in {where}; it is to be PEM")
        source, key = self.certificate, self.key
        if key is not None:
            _read_pem(key, "key")  # for its error, which says more than OpenSSL's
        elif b"PRIVATE KEY-----" not in chain:
            raise ConfigurationError(f"{self} has no key with it, and none is given besides")
        if self.chain is not None:
            key = key or source
            intermediates = _read_pem(self.chain, "certificate chain")
            if _FIRST_CERTIFICATE.search(intermediates) is None:
                raise ConfigurationError(f"there is no certificate in the chain of {self}")
            source = chain + b"\n" + intermediates
        is_encrypted = False

        def tell_password() -> str:
            nonlocal is_encrypted
            is_encrypted = True
            if self.password is None:  # or OpenSSL would ask for it on the terminal
                raise ValueError("the key is encrypted; give its password")
            return self.password

        with _as_file(source) as chain_path, _as_file(key or source) as key_path:
            try:
                context.load_cert_chain(chain_path, key_path, tell_password)
            except ssl.SSLError as error:
                why = _explain(error, is_encrypted=is_encrypted)
                raise ConfigurationError(f"{self} cannot be used: {why}") from error
            except ValueError as error:  # of the password: there is none, or it is too long
                raise ConfigurationError(f"{self} cannot be used: {error}") from error
        return ssl.PEM_cert_to_DER_cert(first[0].decode("ascii"))

    def __str__(self) -> str:
        certificate = "the certificate"
        if isinstance(self.certificate, Path):
            certificate = f"the certificate {self.certificate}"
        return (
            f"{certificate} with the key {self.key}" if isinstance(self.key, Path) else certificate
        )


def load_authorities(context: ssl.SSLContext, source: Pem, what: str) -> None:
    """Have `context` trust the certificates in `source`, the option `what`.

    Raises:
        ConfigurationError: it cannot be read, or has none.
    """
    data = _read_pem(source, f"file of {what}")
    try:  # what is not ASCII is in comments, such as a name above each certificate
        context.load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except ssl.SSLError as error:
        where = f"{what} {source}" if isinstance(source, Path) else what
        raise ConfigurationError(f"there is no certificate in {where}; it is to be PEM") from error


def signature_of(*sources: Pem | None) -> Signature:
    """Return what changes when one of the files among `sources` does, symbolic links followed."""
    return tuple(_stat(source) for source in sources if isinstance(source, Path))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:  # as for a moment while it is replaced
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _as_file(source: Pem) -> Generator[str]:
    """Have `source` as a file while the block runs: OpenSSL reads nothing else."""
    if isinstance(source, Path):
        yield str(source)
        return
    with _unnamed_file() as file:
        file.write(source)
        file.flush()
        yield file.name if isinstance(file.name, str) else f"/proc/self/fd/{file.name}"


def _unnamed_file() -> IO[bytes]:
    """Return a file that nobody else may read and that is gone when it is closed."""
    if sys.platform == "linux":  # in memory: a key does not belong on a disk
        return open(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb")
    return tempfile.NamedTemporaryFile()


def _explain(error: ssl.SSLError, *, is_encrypted: bool) -> str:
    reason: str | None = error.reason  # which is None for what OpenSSL's reader of PEM finds wrong
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return "the key belongs to another certificate"
    if is_encrypted:
        return "the password is wrong"
    if reason in (None, "NO_START_LINE"):
        return "there is no key in it, or no certificate"
    return reason.replace("_", " ").lower()
