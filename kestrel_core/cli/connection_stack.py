"""What stands on each endpoint: its middleware, its TLS and its protocols, and in which order.

Where TLS stands. Whoever writes `--middleware tls` has said it: the word alone means the TLS that
the options configure. Else it stands right inside of the innermost middleware that has to be
outside of TLS: an admission, which decides before a handshake is paid for, and a layer that a
connection begins with, such as the PROXY protocol. The order of --middleware is never changed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeAlias, cast

import attrs

from kestrel_core.admission import place_of_tls
from kestrel_core.cli.connection_options import DETECT
from kestrel_core.cli.option_names import with_option_names
from kestrel_core.cli.plugin_loading import load_named, middleware
from kestrel_core.cli.self_signed import LOCAL_NAMES, SelfSigned, self_signed
from kestrel_core.cli.tls_options import FIELD_OPTIONS, TlsRequest
from kestrel_core.connection import Connection
from kestrel_core.endpoint import Endpoint
from kestrel_core.errors import ConfigurationError, EndpointError
from kestrel_core.middleware import ConnectionHandler, Layer, Middleware, compose
from kestrel_core.plugin_options import PluginText, plugin_from_text, plugin_from_values
from kestrel_core.protocol import Protocol, Sniff, SniffedLayer
from kestrel_core.registry import PluginKind, Registry

__all__ = ["ConnectionStack", "make_stack", "self_signed_for"]

TLS = PluginText("tls")

_TLS_OPTIONS = PluginText("kestrel_middleware.tls:TlsOptions")

_WHOLE_HOST = ("*", "0.0.0.0", "::")


MakeDetection: TypeAlias = Callable[[Sequence[Protocol | SniffedLayer]], ConnectionHandler]


@attrs.frozen
class ConnectionStack:
    """The middleware of all endpoints, TLS among them if there is any."""

    outside: Sequence[Middleware]
    """What stands outside of TLS, the outermost first; all of it where there is no TLS."""

    tls: SniffedLayer | None

    inside: Sequence[Middleware]

    serves_plain: bool
    """Whether clients without TLS are served, too."""

    make_detection: MakeDetection | None = None
    """Makes what chooses among protocols, where it was given options."""

    @property
    def note(self) -> str:
        """What to say of an endpoint, or ""."""
        if self.tls is None:
            return ""
        return "TLS, and without" if self.serves_plain else "TLS"

    def without_tls(self) -> "ConnectionStack":
        """Return the same for an endpoint that speaks no TLS."""
        return attrs.evolve(
            self, outside=(*self.outside, *self.inside), tls=None, inside=(), serves_plain=False
        )

    def over(
        self, protocols: Sequence[ConnectionHandler]
    ) -> tuple[Sequence[Middleware], ConnectionHandler | Sequence[Protocol | SniffedLayer]]:
        """Return what a server takes for `protocols` on this: the middleware and the handler.

        Raises:
            ConfigurationError: a middleware may not stand where it would, or a protocol cannot be
                detected.
        """
        found = cast(Sequence[Protocol], protocols)
        if self.tls is None:
            return self.outside, self._choosing(found)
        if not self.serves_plain:
            return (*self.outside, self.tls, *self.inside), self._choosing(found)
        # With and without TLS, all that stands inside of it has to be around each protocol.
        outer: list[Middleware] = [*self.outside, self.tls]
        wrapped = [_inside(self.inside, each, outer) for each in found]
        return self.outside, self._choosing([self.tls, *wrapped])

    def _choosing(
        self, entries: Sequence[Protocol | SniffedLayer]
    ) -> ConnectionHandler | Sequence[Protocol | SniffedLayer]:
        """Return what chooses among `entries`, if there is a choice."""
        if self.make_detection is not None:
            return self.make_detection(entries)
        first = entries[0]
        return first if len(entries) == 1 and not isinstance(first, SniffedLayer) else entries


def make_stack(
    registry: Registry,
    texts: Sequence[PluginText],
    request: TlsRequest | None,
    certificate: bytes | None,
) -> ConnectionStack:
    """Return the stack of the middleware `texts` and of the TLS that `request` asks for.

    `certificate` has the key and the certificate of a self-signed one.

    Raises:
        ConfigurationError: a plug-in is not known, or its options are wrong, or TLS is asked for
            in two ways.
        PluginError: one does not load.
    """
    configured = None if request is None else _make_tls(registry, request, certificate)
    made: list[Middleware] = []
    place: int | None = None
    make_detection: MakeDetection | None = None
    for position, text in enumerate(texts):
        if text.name == DETECT:
            if position < len(texts) - 1:
                raise ConfigurationError(
                    f"{DETECT} chooses among the protocols, and stands inside of every middleware:"
                    " write it last"
                )
            make_detection = _detection_maker(registry, text)
            continue
        if text != TLS:
            made.append(middleware(registry, text))
            continue
        if configured is None:
            raise ConfigurationError(
                "--middleware tls is the place of the TLS that --certfile configures; give"
                " --certfile, or options as in tls:certificate=FILE,key=FILE"
            )
        place = len(made)
        made.append(configured)
    own = [index for index, each in enumerate(made) if each is not configured and _is_tls(each)]
    if configured is None:
        if not own:
            return ConnectionStack(
                made, None, (), serves_plain=False, make_detection=make_detection
            )
        place = own[0]
        configured = cast(SniffedLayer, made[place])
    elif own:
        raise ConfigurationError(
            "TLS is configured in two ways: by options such as --certfile, and by --middleware"
            " tls:...; leave one out"
        )
    elif place is None:
        place = place_of_tls(made)
        made.insert(place, configured)
    serves_plain = request is not None and request.serves_plain
    return ConnectionStack(
        made[:place], configured, made[place + 1 :], serves_plain, make_detection
    )


def self_signed_for(endpoints: Sequence[Endpoint], during: ExitStack) -> SelfSigned:
    """Make a certificate for this machine's own names and the hosts of `endpoints`.

    Raises:
        MissingExtraError: as `self_signed` does.
    """
    names: dict[str, None] = dict.fromkeys(LOCAL_NAMES)
    for endpoint in endpoints:
        try:
            host, _ = endpoint.host_and_port()
        except EndpointError:  # a path, or no address: its transport will tell
            continue
        if host not in _WHOLE_HOST:
            names[host] = None
    return during.enter_context(self_signed(list(names)))


def _make_tls(registry: Registry, request: TlsRequest, certificate: bytes | None) -> SniffedLayer:
    values = dict(request.values)
    if certificate is not None:
        values["certificate"] = certificate
    if request.hosts:
        values["hosts"] = _hosts(registry, request.hosts)
    found = registry.load(PluginKind.MIDDLEWARE, TLS.name)
    try:
        return cast(SniffedLayer, plugin_from_values(cast(type, found), TLS.name, values))
    except ConfigurationError as error:
        raise ConfigurationError(with_option_names(str(error), FIELD_OPTIONS)) from error


def _detection_maker(registry: Registry, text: PluginText) -> MakeDetection:
    kind = cast(type, load_named(registry, PluginKind.MIDDLEWARE, text))

    def make(entries: Sequence[Protocol | SniffedLayer]) -> ConnectionHandler:
        return cast(ConnectionHandler, plugin_from_text(kind, text, entries))

    return make


def _hosts(registry: Registry, texts: Sequence[PluginText]) -> Mapping[str, object]:
    kind = cast(type, load_named(registry, PluginKind.MIDDLEWARE, _TLS_OPTIONS))
    hosts: dict[str, object] = {}
    for text in texts:
        if text.name in hosts:
            raise ConfigurationError(f"--sni has two entries for {text.name}")
        hosts[text.name] = plugin_from_text(kind, text, noun="--sni")
    return hosts


def _is_tls(each: Middleware) -> bool:
    return isinstance(each, SniffedLayer) and each.name == TLS.name


def _inside(
    inner: Sequence[Middleware], protocol: Protocol, outer: Sequence[Middleware]
) -> Protocol:
    """Return `protocol` inside of `inner`, which begins as it does; `outer` is around both.

    Raises:
        ConfigurationError: one of `inner` may not stand there.
    """
    for position, each in enumerate(inner):
        if isinstance(each, Layer):
            each.check_place((*outer, *inner[:position]), [*inner[position + 1 :], protocol])
    composed = compose(inner, protocol)

    class Inside(Protocol):
        name = protocol.name
        alpn = protocol.alpn

        def sniff(self, prefix: bytes) -> Sniff:
            return protocol.sniff(prefix)

        async def __call__(self, connection: Connection) -> None:
            await composed(connection)

    return Inside()
