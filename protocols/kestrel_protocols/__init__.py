"""Protocol handlers and the application interfaces that they call.

`http` has the words that all HTTP versions share; `http1` speaks one of them; `asgi` adapts ASGI
applications. Modules here know the core, and each other only through `http`.
"""
