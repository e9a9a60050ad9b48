"""The seams of the framework and the server that joins them.

What lives here names no wire format, no socket and no TLS: those are plug-ins. Reading order:
`connection`, `pipe_reader`, `pipe_writer`, `duplex_pipe`, `middleware`, `transport`, `server`.
`cli` is the command; `testing` is for tests and imported by nothing else.
"""

from kestrel_core._version import __version__ as __version__
from kestrel_core.admission import Admission as Admission
from kestrel_core.connection import Address as Address
from kestrel_core.connection import Connection as Connection
from kestrel_core.connection import ConnectionContext as ConnectionContext
from kestrel_core.connection import Failure as Failure
from kestrel_core.connection import MultiplexedConnection as MultiplexedConnection
from kestrel_core.connection import report_failure as report_failure
from kestrel_core.duplex_pipe import DuplexPipe as DuplexPipe
from kestrel_core.duplex_pipe import PipeStream as PipeStream
from kestrel_core.end_reason import EndReason as EndReason
from kestrel_core.endpoint import Endpoint as Endpoint
from kestrel_core.errors import BindError as BindError
from kestrel_core.errors import ConfigurationError as ConfigurationError
from kestrel_core.errors import EndpointError as EndpointError
from kestrel_core.errors import KestrelError as KestrelError
from kestrel_core.errors import MissingExtraError as MissingExtraError
from kestrel_core.errors import PluginError as PluginError
from kestrel_core.features import ClientHello as ClientHello
from kestrel_core.features import Features as Features
from kestrel_core.features import FeatureSource as FeatureSource
from kestrel_core.features import PeerCredentials as PeerCredentials
from kestrel_core.features import ProxyInfo as ProxyInfo
from kestrel_core.features import ProxyTls as ProxyTls
from kestrel_core.features import SocketInfo as SocketInfo
from kestrel_core.features import TlsInfo as TlsInfo
from kestrel_core.file_blocks import FileBlocks as FileBlocks
from kestrel_core.layered_pipe import LayeredPipe as LayeredPipe
from kestrel_core.layered_pipe import LayerReader as LayerReader
from kestrel_core.layered_pipe import LayerWriter as LayerWriter
from kestrel_core.limits import Limits as Limits
from kestrel_core.memory import Block as Block
from kestrel_core.memory import MemoryPool as MemoryPool
from kestrel_core.memory import PoolStatistics as PoolStatistics
from kestrel_core.memory_pipe import Pipe as Pipe
from kestrel_core.memory_pipe import duplex_pipe_pair as duplex_pipe_pair
from kestrel_core.middleware import ConnectionHandler as ConnectionHandler
from kestrel_core.middleware import Layer as Layer
from kestrel_core.middleware import Middleware as Middleware
from kestrel_core.middleware import compose as compose
from kestrel_core.middleware import needs_bytes as needs_bytes
from kestrel_core.middleware import serve_over as serve_over
from kestrel_core.pipe_reader import PipeReader as PipeReader
from kestrel_core.pipe_reader import SeparatorNotFound as SeparatorNotFound
from kestrel_core.pipe_writer import PipeWriter as PipeWriter
from kestrel_core.protocol import Detection as Detection
from kestrel_core.protocol import Protocol as Protocol
from kestrel_core.protocol import Sniff as Sniff
from kestrel_core.protocol import SniffedLayer as SniffedLayer
from kestrel_core.registry import PluginKind as PluginKind
from kestrel_core.registry import Registry as Registry
from kestrel_core.server import Server as Server
from kestrel_core.signals import Signal as Signal
from kestrel_core.timers import Deadline as Deadline
from kestrel_core.timers import Timers as Timers
from kestrel_core.transport import Listener as Listener
from kestrel_core.transport import Transport as Transport
from kestrel_core.transport import TransportContext as TransportContext
from kestrel_core.transport import open_transport_context as open_transport_context
