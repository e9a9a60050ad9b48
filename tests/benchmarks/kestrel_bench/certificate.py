"""The one certificate that every server shows where TLS is spoken."""

from pathlib import Path

import trustme
from attrs import frozen
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

_NAMES = ("127.0.0.1", "localhost")


@frozen(kw_only=True)
class CertificateFiles:
    """The certificate and its key, both in PEM: an elliptic curve's, P-256, without a chain."""

    certificate: Path
    key: Path


def write_certificate(folder: Path) -> CertificateFiles:
    """Makes both files unless the folder has them."""
    files = CertificateFiles(certificate=folder / "certificate.pem", key=folder / "key.pem")
    if files.certificate.exists() and files.key.exists():
        return files
    folder.mkdir(exist_ok=True)
    issued = trustme.CA().issue_cert(*_NAMES)
    # granian takes a key in PKCS #8 only; trustme writes another format.
    key = load_pem_private_key(issued.private_key_pem.bytes(), password=None)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    return files
