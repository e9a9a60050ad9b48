import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from kestrel_core.connection import Connection
from kestrel_core.features import TlsInfo
from kestrel_core.testing import open_server
from kestrel_core.testing.authority import Authority, Identity
from kestrel_middleware.tls import ClientCertificates, Tls, TlsClient


def certificates(identity: Identity) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(identity.certificate_chain)


async def whom_each_sees(
    server: Identity, client: TlsClient, *, demanding: Authority | None = None
) -> tuple[TlsInfo, TlsInfo]:
    """Let the two shake hands; return what the client knows then, and what the server knows.

    With `demanding` the server wants a certificate that this has issued.
    """
    seen: list[TlsInfo] = []

    async def answer(connection: Connection) -> None:
        seen.append(connection.features[TlsInfo])
        await connection.transport.output.send(b"hello")

    async def listen(connection: Connection) -> None:
        assert await connection.transport.input.read_exactly(5) == b"hello"
        seen.insert(0, connection.features[TlsInfo])

    layer = Tls(
        certificate=server.certificate_chain,
        key=server.key,
        client_certificates=ClientCertificates.REQUIRE if demanding else None,
        client_authorities=demanding.pem if demanding else None,
    )
    async with open_server(answer, middleware=[layer]) as opened:
        await client(await opened.connect(), listen)
    return seen[0], seen[1]


def test_a_server_has_names_of_every_kind() -> None:
    names = ("host.example", "*.example", "192.0.2.1", "::1", "ada@host.example")
    (certificate,) = certificates(Authority().issue(*names))
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in found] == list(names)
    assert isinstance(certificate.public_key(), Ed25519PublicKey)


def test_a_name_may_be_of_any_script() -> None:
    (certificate,) = certificates(Authority().issue("*.bücher.example"))
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["*.xn--bcher-kva.example"]


@pytest.mark.parametrize("name", ["", "a b", "a..b", "192.0.2.0/24", "*", "a@", "x" * 64])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Authority().issue(name)


def test_a_client_may_have_a_common_name_alone() -> None:
    (certificate,) = certificates(Authority().issue(common_name="Ada"))
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "Ada"
    with pytest.raises(x509.ExtensionNotFound):  # which may not be empty
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_nobody_is_nobody() -> None:
    with pytest.raises(ValueError, match="needs a name or a common_name"):
        Authority().issue()


def test_a_key_is_not_shown() -> None:
    identity = Authority().issue("host.example")
    assert b"PRIVATE KEY" in identity.key
    assert "PRIVATE" not in repr(identity)


def test_a_certificate_is_good_for_as_long_as_is_said() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    day = timedelta(days=1)
    authority = Authority()
    (certificate,) = certificates(authority.issue("a", not_before=now - day, not_after=now + day))
    assert certificate.not_valid_before_utc == now - day
    assert certificate.not_valid_after_utc == now + day
    (certificate,) = certificates(authority.issue("a"))
    assert certificate.not_valid_before_utc < now - 1000 * day
    assert certificate.not_valid_after_utc > now + 1000 * day


def test_each_identity_and_each_authority_is_another() -> None:
    authority = Authority()
    assert authority.issue("a").key != authority.issue("a").key
    assert authority.pem != Authority().pem
    assert authority.pem == authority.pem


def test_equal_names_make_certificates_of_equal_length() -> None:
    def issued_bytes() -> list[int]:
        root = Authority()
        identity = Authority(root).issue("host.example", "::1", common_name="Ada")
        return [len(root.pem), len(identity.certificate_chain), len(identity.key)]

    assert len({tuple(issued_bytes()) for _ in range(200)}) == 1


def test_an_authority_may_sign_certificates_and_nobody_else() -> None:
    root = Authority()
    (above,) = x509.load_pem_x509_certificates(root.pem)
    issued, below = certificates(Authority(root).issue("host.example"))
    for certificate, of_authority in ((above, True), (below, True), (issued, False)):
        find = certificate.extensions.get_extension_for_class
        assert find(x509.BasicConstraints).value.ca is of_authority
        assert find(x509.KeyUsage).value.key_cert_sign is of_authority
        assert find(x509.KeyUsage).value.digital_signature is not of_authority
    issued.verify_directly_issued_by(below)
    below.verify_directly_issued_by(above)
    above.verify_directly_issued_by(above)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_openssl_finds_no_fault_with_either_side(version: ssl.TLSVersion, tmp_path: Path) -> None:
    root = Authority()
    file = tmp_path / "identity.pem"

    def context(purpose: ssl.Purpose, identity: Identity) -> ssl.SSLContext:
        file.write_bytes(identity.certificate_chain + identity.key)
        made = ssl.create_default_context(purpose, cadata=root.pem.decode())
        made.load_cert_chain(file)
        made.verify_mode = ssl.CERT_REQUIRED
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.minimum_version = made.maximum_version = version
        return made

    authority = Authority(root)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(ssl.Purpose.SERVER_AUTH, authority.issue(common_name="Ada")).wrap_bio(
        to_client, to_server, server_hostname="www.host.example"
    )
    server = context(ssl.Purpose.CLIENT_AUTH, authority.issue("*.host.example")).wrap_bio(
        to_server, to_client, server_side=True
    )
    for side in (client, server, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    server.do_handshake()
    client.do_handshake()
    peer = server.getpeercert()
    assert peer is not None
    assert (("commonName", "Ada"),) in cast(tuple[object, ...], peer["subject"])
    assert client.version() == server.version()


async def test_a_client_sees_whom_its_authority_vouches_for() -> None:
    authority = Authority()
    client = TlsClient(server_name="host.example", authorities=authority.pem)
    server = authority.issue("host.example", common_name="the host")
    by_client, by_server = await whom_each_sees(server, client)
    assert by_client.peer_name is not None
    assert "CN=the host" in by_client.peer_name
    assert by_server.peer_name is None


@pytest.mark.parametrize("name", ["host.example", "192.0.2.1", "::1"])
async def test_a_client_of_another_authority_does_not_go_on(name: str) -> None:
    server = Authority().issue(name)
    client = TlsClient(server_name=name, authorities=Authority().pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        await whom_each_sees(server, client)


async def test_a_server_sees_which_client_the_authority_vouches_for() -> None:
    authority = Authority()
    identity = authority.issue("ada@host.example", common_name="Ada")
    client = TlsClient(
        server_name="host.example",
        authorities=authority.pem,
        certificate=identity.certificate_chain,
        key=identity.key,
    )
    server = authority.issue("host.example")
    _, by_server = await whom_each_sees(server, client, demanding=authority)
    assert by_server.peer_name is not None
    assert "CN=Ada" in by_server.peer_name
    with pytest.raises(trio.BrokenResourceError):
        await whom_each_sees(server, client, demanding=Authority())


async def test_what_an_authority_below_issues_is_trusted_by_those_above() -> None:
    root = Authority()
    server = Authority(Authority(root)).issue("host.example")
    assert len(certificates(server)) == 3
    client = TlsClient(server_name="host.example", authorities=root.pem)
    by_client, _ = await whom_each_sees(server, client)
    assert by_client.peer_name
