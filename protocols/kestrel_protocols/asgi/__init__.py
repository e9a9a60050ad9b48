"""ASGI 3 applications (https://asgi.readthedocs.io/), on any version of HTTP.

`application` adapts requests, `lifespan` the application's start and end.
"""

from kestrel_protocols.asgi.application import AsgiApp as AsgiApp
from kestrel_protocols.asgi.application import AsgiApplication as AsgiApplication
from kestrel_protocols.asgi.lifespan import LifespanFailed as LifespanFailed
