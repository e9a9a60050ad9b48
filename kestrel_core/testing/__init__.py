"""For tests: contract suites that plug-ins of any origin can run, and servers without sockets.

* `check_pipe`, `check_transport` and `check_middleware` hold an implementation to what the seams
  promise. They raise `AssertionError` with a sentence that says which promise was broken.
* `serve_in_memory` runs a real server for the length of a block, over the in-memory transport.
* `kestrel_core.testing.http_client` is an HTTP client for such a server; it needs the extra
  `testing`, and is not imported here for that reason.

Nothing that is shipped imports this package. It knows no plug-in by module, only by name.
"""

from kestrel_core.testing.middleware_contract import check_middleware as check_middleware
from kestrel_core.testing.pipe_contract import check_pipe as check_pipe
from kestrel_core.testing.served import Served as Served
from kestrel_core.testing.served import serve_in_memory as serve_in_memory
from kestrel_core.testing.transport_contract import check_transport as check_transport
