"""HTTPS for several names: python tls_server.py ENDPOINT FOLDER

The folder has a certificate with its key for each name, in one file: example.org.pem and so on, and
default.pem for everybody else; and maybe clients.pem, with who certifies the clients of members.* names.
SIGHUP reads all of them again, at once.
"""

import signal
import sys
from pathlib import Path

import trio

from kestrel_core import Server
from kestrel_core.errors import ConfigurationError
from kestrel_core.features import ClientHello, TlsInfo
from kestrel_middleware.tls import ClientCertificates, PlainHttp, Tls, TlsOptions, TlsVersion
from kestrel_protocols.http import HttpExchange
from kestrel_protocols.http1 import Http1


def tls_from(folder: Path) -> Tls:
    tls = Tls(
        certificate=folder / "default.pem",
        hosts={
            "example.org": TlsOptions(certificate=folder / "example.org.pem"),
            "*.example.org": TlsOptions(certificate=folder / "wildcard.pem"),
            "members.example.org": TlsOptions(
                certificate=folder / "wildcard.pem",
                client_certificates=ClientCertificates.REQUIRE,
                client_authorities=folder / "clients.pem",
                minimum_version=TlsVersion.TLS_1_3,
            ),
        },
        plain_http=PlainHttp.REDIRECT,
    )
    return tls


async def tell(exchange: HttpExchange) -> None:
    features = exchange.connection.features
    info, hello = features[TlsInfo], features[ClientHello]
    lines = [
        f"{info.version}, {info.cipher}, {'resumed' if info.resumed else 'new'}",
        f"you asked for {info.server_name}",
        f"you are {info.peer_name or 'nobody in particular'}",
        f"your fingerprint is {hello.fingerprint}",
    ]
    await exchange.respond(200, [], "\n".join([*lines, ""]).encode())


async def reload_on_sighup(tls: Tls) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            try:
                tls.reload()
            except ConfigurationError as error:
                print("the old certificates stay:", error, flush=True)
            else:
                print("reloaded", flush=True)


async def main(endpoint: str, folder: Path) -> None:
    tls = tls_from(folder)
    server = Server()
    server.listen(endpoint, Http1(tell), middleware=[tls])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload_on_sighup, tls)
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    where, certificates = sys.argv[1:]
    trio.run(main, where, Path(certificates))
