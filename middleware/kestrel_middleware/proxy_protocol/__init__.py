"""The PROXY protocol of HAProxy, versions 1 and 2: receiving it and sending it.

`ProxyProtocol` is the middleware of servers behind proxies, `SendProxyHeader` that of proxies.
`wire` knows the bytes, `header` and `tlv` what they say.
"""

from kestrel_middleware.proxy_protocol.header import Command as Command
from kestrel_middleware.proxy_protocol.header import Family as Family
from kestrel_middleware.proxy_protocol.header import InvalidHeader as InvalidHeader
from kestrel_middleware.proxy_protocol.header import ProxyHeader as ProxyHeader
from kestrel_middleware.proxy_protocol.header import SocketKind as SocketKind
from kestrel_middleware.proxy_protocol.receiving import ProxyProtocol as ProxyProtocol
from kestrel_middleware.proxy_protocol.sending import SendProxyHeader as SendProxyHeader
from kestrel_middleware.proxy_protocol.sending import header_for as header_for
from kestrel_middleware.proxy_protocol.tlv import SslClient as SslClient
from kestrel_middleware.proxy_protocol.tlv import SslTlv as SslTlv
from kestrel_middleware.proxy_protocol.tlv import Tlv as Tlv
from kestrel_middleware.proxy_protocol.tlv import TlvType as TlvType
from kestrel_middleware.proxy_protocol.wire import decode as decode
from kestrel_middleware.proxy_protocol.wire import encode as encode
