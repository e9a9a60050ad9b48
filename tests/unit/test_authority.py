import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
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
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_a_client_may_have_a_common_name_alone() -> None:
    (certificate,) = certificates(Authority().issue(common_name="Ada"))
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "Ada"


def test_nobody_is_nobody() -> None:
    with pytest.raises(ValueError, match="at least one identity"):
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
