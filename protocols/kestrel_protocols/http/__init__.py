"""What every version of HTTP shares: the exchange, its fields, and how an application is run.

Nothing here knows how a version looks on the wire.
"""

from kestrel_protocols.http.exchange import BadRequest as BadRequest
from kestrel_protocols.http.exchange import ClientDisconnected as ClientDisconnected
from kestrel_protocols.http.exchange import Headers as Headers
from kestrel_protocols.http.exchange import HttpApplication as HttpApplication
from kestrel_protocols.http.exchange import HttpExchange as HttpExchange
from kestrel_protocols.http.exchange import ResponseError as ResponseError
from kestrel_protocols.http.exchange import TooManyUpgrades as TooManyUpgrades
from kestrel_protocols.http.rejection import Rejection as Rejection
