"""TLS with certificates that are made when somebody asks for them: python tls_on_demand.py ENDPOINT FILE

FILE is where the certificate of the authority goes, for clients to trust. Needs trustme.
"""

import sys

import trio
import trustme

from kestrel_core import Connection, Server
from kestrel_core.features import ClientHello
from kestrel_middleware.tls import Tls, TlsOptions


class Certificates:
    """One for each name, made when it is asked for first."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self._made: dict[str, TlsOptions] = {}

    async def choose(self, hello: ClientHello, connection: Connection) -> TlsOptions | None:
        name = hello.server_name
        if name is None or not name.endswith(".example.org"):
            return None  # no opinion, and so no certificate
        if name not in self._made:
            issued = await trio.to_thread.run_sync(self.authority.issue_cert, name)
            print("made a certificate for", name, flush=True)
            self._made[name] = TlsOptions(
                certificate=issued.cert_chain_pems[0].bytes(),
                key=issued.private_key_pem.bytes(),
            )
        return self._made[name]


async def echo(connection: Connection) -> None:
    async for chunk in connection.transport.input:
        await connection.transport.output.send(chunk)


async def main(endpoint: str, file: str) -> None:
    certificates = Certificates()
    await trio.Path(file).write_bytes(certificates.authority.cert_pem.bytes())
    server = Server()
    server.listen(endpoint, echo, middleware=[Tls(choose=certificates.choose)])
    async with trio.open_nursery() as nursery:
        [bound] = await nursery.start(server.serve)
        print("listening on", bound, flush=True)


if __name__ == "__main__":
    where, authority_file = sys.argv[1:]
    trio.run(main, where, authority_file)
