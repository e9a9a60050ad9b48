"""TLS over any pipe, for servers and clients.

Reading order: `options` (what one server name is served with), `server` and `client` (the layers),
`pipe` (where the bytes go through OpenSSL); `contexts` and `certificate` (files, and their reload).
"""

from kestrel_middleware.tls.client import TlsClient as TlsClient
from kestrel_middleware.tls.options import ClientCertificates as ClientCertificates
from kestrel_middleware.tls.options import TlsOptions as TlsOptions
from kestrel_middleware.tls.options import TlsVersion as TlsVersion
from kestrel_middleware.tls.pipe import TlsPipe as TlsPipe
from kestrel_middleware.tls.plain_http import PlainHttp as PlainHttp
from kestrel_middleware.tls.server import ChooseTls as ChooseTls
from kestrel_middleware.tls.server import Tls as Tls
