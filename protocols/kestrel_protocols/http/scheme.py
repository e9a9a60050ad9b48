"""Whether a client reached us securely, which the URL's scheme tells."""

from kestrel_core.connection import Connection
from kestrel_core.features import ProxyInfo, TlsInfo

__all__ = ["scheme_of"]


def scheme_of(connection: Connection) -> str:
    """Return "https" if the client speaks TLS with us, or with a proxy that we believe, else "http".

    What a proxy writes into fields of a request is not looked at: anybody could write it.
    """
    features = connection.features
    if TlsInfo in features:
        return "https"
    proxy = features.get(ProxyInfo)
    return "https" if proxy is not None and proxy.tls is not None else "http"
