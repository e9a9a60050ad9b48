"""For tests: real servers without sockets, bad networks, and contract suites for plug-ins.

* `serve` serves an application for the length of a block, over the in-memory transport, and
  `open_server` any handler or protocols. The `OpenServer` that they yield makes clients, and tells
  what has happened. Clients of HTTP and certificates need the extra `testing`.
* `kestrel_core.testing.network` is what may be between clients and server.
* `check_pipe`, `check_transport`, `check_multiplexed_transport`, `check_middleware` and
  `check_protocol_sniffer` hold an implementation to what the seams promise. They raise
  `AssertionError` with a sentence that says which promise was broken.
* `check_no_leaks` finds tasks, threads, descriptors and connections that a block leaves behind, and
  `DiagnosticMemoryPool` blocks that are leaked, given back twice, or used after that.
* For pytest there are the fixtures `kestrel_serve`, `kestrel_clock` and `kestrel_seed`.

Nothing that is shipped imports this package. It knows no plug-in by module, only by name.
"""

from kestrel_core.testing.contracts.middleware import check_middleware as check_middleware
from kestrel_core.testing.contracts.multiplexed_transport import (
    check_multiplexed_transport as check_multiplexed_transport,
)
from kestrel_core.testing.contracts.no_leaks import check_no_leaks as check_no_leaks
from kestrel_core.testing.contracts.pipe import check_pipe as check_pipe
from kestrel_core.testing.contracts.protocol_sniffer import (
    check_protocol_sniffer as check_protocol_sniffer,
)
from kestrel_core.testing.contracts.transport import check_transport as check_transport
from kestrel_core.testing.diagnostic_memory_pool import DiagnosticMemoryPool as DiagnosticMemoryPool
from kestrel_core.testing.observation import Metrics as Metrics
from kestrel_core.testing.open_server import ClientOptions as ClientOptions
from kestrel_core.testing.open_server import OpenServer as OpenServer
from kestrel_core.testing.serving import ApplicationFailed as ApplicationFailed
from kestrel_core.testing.serving import LeftOpen as LeftOpen
from kestrel_core.testing.serving import Serve as Serve
from kestrel_core.testing.serving import open_server as open_server
from kestrel_core.testing.serving import serve as serve
