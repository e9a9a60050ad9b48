"""Certificates that are renewed while the server runs, in all the ways in which that is done."""

import logging
import os
import ssl
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from kestrel_core.end_reason import EndReason
from kestrel_core.errors import ConfigurationError
from kestrel_middleware.tls import ClientCertificates, Tls, TlsOptions
from tests.tls_site import (
    Echo,
    Issued,
    TlsSite,
    authority,
    certificate,
    serving_tls,
    stranger,
    trusting,
)

# At each connection, as `shown` lets so much time pass before it connects.
AT_ONCE = 1.0

OLD, NEW = certificate("old.example"), certificate("new.example")

ANY_NAME = trusting(any_name=True)


def put(path: Path, content: bytes) -> None:
    """Write over a file, later than ever before: a file system's clock may be coarse."""
    path.write_bytes(content)
    now = next(_times)
    os.utime(path, ns=(now, now))


_times = count(time.time_ns())


@attrs.frozen
class Files:
    """A certificate and its key in files, and the ways to put others there."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    def layer(self, reload_seconds: float | None = AT_ONCE) -> Tls:
        return Tls(certificate=self.certificate, key=self.key, reload_seconds=reload_seconds)

    def write(self, issued: Issued) -> None:
        """Write over the files."""
        put(self.certificate, issued.chain)
        put(self.key, issued.key)

    def rename(self, issued: Issued) -> None:
        """Put other files at their place, as certbot's hooks and most deployments do."""
        for path, content in ((self.certificate, issued.chain), (self.key, issued.key)):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)

    def switch(self, issued: Issued) -> None:
        """Switch the link that all files are found through, as Kubernetes does with secrets."""
        number = len([path for path in self.folder.iterdir() if path.name.startswith("..2")])
        fresh = self.folder / f"..2026_{number}"
        fresh.mkdir()
        (fresh / "tls.crt").write_bytes(issued.chain)
        (fresh / "tls.key").write_bytes(issued.key)
        link = self.folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.replace(self.folder / "..data")
        for path in (self.certificate, self.key):
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def shown(site: TlsSite) -> bytes | None:
    """Connect a little later; return the certificate that the server shows."""
    await trio.sleep(AT_ONCE)
    peer = await site.peer(ANY_NAME)
    assert await peer.ask(b"x") == b"x"
    await peer.aclose()
    return peer.session.getpeercert(binary_form=True)


def take_news(site: TlsSite) -> list[str]:
    """Return what was told of certificates since, which is INFO."""
    news = [each for each in site.log.records if each.levelno >= logging.INFO]
    site.log.records.clear()
    assert {each.levelno for each in news} <= {logging.INFO}
    return [each.getMessage() for each in news]


def take_error(site: TlsSite) -> str:
    """Return the one error that was logged since."""
    (error,) = [each for each in site.log.records if each.levelno >= logging.INFO]
    site.log.records.clear()
    assert (error.name, error.levelno) == ("kestrel.tls", logging.ERROR)
    assert error.exc_info is None
    return error.getMessage()


WAYS: list[Callable[[Files, Issued], None]] = [Files.write, Files.rename, Files.switch]


@pytest.mark.parametrize("replace", WAYS)
async def test_new_files(
    replace: Callable[[Files, Issued], None], files: Files, autojump_clock: MockClock
) -> None:
    replace(files, OLD)
    async with serving_tls(files.layer(), Echo()) as site:
        stays = await site.peer(ANY_NAME)
        assert await stays.ask(b"before") == b"before"
        assert await shown(site) == OLD.der
        for issued in (NEW, OLD, NEW):
            replace(files, issued)
            assert await shown(site) == issued.der
            assert await shown(site) == issued.der
            assert take_news(site) == [f"loaded the new certificate from {files.certificate}"]
        assert await stays.ask(b"after") == b"after"
        assert stays.session.getpeercert(binary_form=True) == OLD.der


async def test_not_looked_at_too_often(files: Files, autojump_clock: MockClock) -> None:
    files.write(OLD)
    async with serving_tls(files.layer(reload_seconds=3600), Echo()) as site:
        assert await shown(site) == OLD.der
        files.write(NEW)
        assert await shown(site) == OLD.der


async def test_never(files: Files, autojump_clock: MockClock) -> None:
    """Unless somebody says so."""
    files.write(OLD)
    layer = files.layer(reload_seconds=None)
    async with serving_tls(layer, Echo()) as site:
        files.write(NEW)
        assert await shown(site) == OLD.der
        layer.reload()
        assert await shown(site) == NEW.der
        assert take_news(site) == []


def cut_short(files: Files) -> None:
    put(files.certificate, NEW.chain[:100])


def emptied(files: Files) -> None:
    put(files.certificate, b"")


def without_its_key(files: Files) -> None:
    put(files.certificate, NEW.chain)


def gone(files: Files) -> None:
    files.certificate.unlink()


def key_gone(files: Files) -> None:
    files.key.unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut_short, "there is no certificate in {}; it is to be PEM"),
        (emptied, "there is no certificate in {}; it is to be PEM"),
        (
            without_its_key,
            "the certificate {} with the key {} cannot be used: the key belongs to another"
            " certificate",
        ),
        (gone, "the certificate {} cannot be read: No such file or directory"),
        (key_gone, "the key {1} cannot be read: No such file or directory"),
    ],
)
async def test_broken_files(
    spoil: Callable[[Files], None], why: str, files: Files, autojump_clock: MockClock
) -> None:
    """The old certificate stays, one error is logged, and the next change is tried again."""
    files.write(OLD)
    layer = files.layer()
    sentence = why.format(files.certificate, files.key)
    async with serving_tls(layer, Echo()) as site:
        spoil(files)
        for _ in range(3):
            assert await shown(site) == OLD.der
        assert take_error(site) == (
            f"the new certificate is not used; the old one still is: {sentence}"
        )
        with pytest.raises(ConfigurationError) as caught:
            layer.reload()
        assert str(caught.value) == sentence
        assert await shown(site) == OLD.der
        files.write(NEW)
        assert await shown(site) == NEW.der
        assert take_news(site) == [f"loaded the new certificate from {files.certificate}"]


async def test_a_key_that_comes_after_its_certificate(
    files: Files, autojump_clock: MockClock
) -> None:
    files.write(OLD)
    async with serving_tls(files.layer(), Echo()) as site:
        put(files.certificate, NEW.chain)
        assert await shown(site) == OLD.der
        take_error(site)
        put(files.key, NEW.key)
        assert await shown(site) == NEW.der
        take_news(site)


def with_two_names(one: Path, other: Path, reload_seconds: float | None) -> Tls:
    """Write to both files; return TLS that shows `other` for other.example, and else `one`."""
    for path in (one, other):
        put(path, OLD.chain + OLD.key)
    hosts = {"other.example": TlsOptions(certificate=other)}
    return Tls(certificate=one, hosts=hosts, reload_seconds=reload_seconds)


async def test_each_name_has_files_of_its_own(tmp_path: Path, autojump_clock: MockClock) -> None:
    one, other = tmp_path / "one.pem", tmp_path / "other.pem"
    layer = with_two_names(one, other, AT_ONCE)
    async with serving_tls(layer, Echo()) as site:
        put(other, NEW.chain + NEW.key)
        assert await shown(site) == OLD.der
        peer = await site.peer(ANY_NAME, "other.example")
        assert peer.session.getpeercert(binary_form=True) == NEW.der
        take_news(site)


async def test_reloading_is_all_or_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    one, other = tmp_path / "one.pem", tmp_path / "other.pem"
    layer = with_two_names(one, other, None)
    async with serving_tls(layer, Echo()) as site:
        put(one, NEW.chain + NEW.key)
        put(other, b"")
        with pytest.raises(ConfigurationError, match=r"other\.pem; it is to be PEM"):
            layer.reload()
        assert await shown(site) == OLD.der


async def test_the_authorities_of_clients(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = tmp_path / "ca.pem"
    put(path, stranger().cert_pem.bytes())
    layer = Tls(
        certificate=OLD.chain,
        key=OLD.key,
        client_certificates=ClientCertificates.REQUIRE,
        client_authorities=path,
        reload_seconds=AT_ONCE,
    )
    client = trusting(client=certificate("client"), any_name=True)
    async with serving_tls(layer, Echo()) as site:
        peer = await site.peer(client)
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            await peer.receive()
        assert await site.ended() is EndReason.TLS_HANDSHAKE_FAILED
        put(path, authority().cert_pem.bytes())
        await trio.sleep(AT_ONCE)
        peer = await site.peer(client)
        assert await peer.ask(b"x") == b"x"
        take_news(site)


async def test_data_does_not_change(autojump_clock: MockClock) -> None:
    layer = Tls(certificate=OLD.chain, key=OLD.key, reload_seconds=AT_ONCE)
    async with serving_tls(layer, Echo()) as site:
        assert await shown(site) == OLD.der
        layer.reload()
        assert await shown(site) == OLD.der
