"""WSGI applications (PEP 3333), on any version of HTTP, each request in a worker thread.

`application` adapts requests; `environ` describes them; `request_thread` is the way from the
thread back to the event loop, over which `request_body` reads and `response` answers.
"""

from kestrel_protocols.wsgi.application import WsgiApplication as WsgiApplication
