"""HTTP/1.1 and HTTP/1.0 (RFC 9112), server side.

`connection` drives one connection; `exchange` is one request and its response; `request_head`
reads heads by a strict pattern, and `unusual_head` judges what does not match it; `leniency` names
what can be tolerated all the same;
`body` reads bodies, `response_framing` decides how those of responses end, and
`application_failure` what becomes of a request that the application fails on.
"""

from kestrel_protocols.http1.leniency import Leniency as Leniency
from kestrel_protocols.http1.protocol import Http1 as Http1
