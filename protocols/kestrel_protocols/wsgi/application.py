"""HTTP exchanges for WSGI applications (PEP 3333, version 1.0.1 of WSGI)."""

import logging
from collections.abc import Callable
from functools import partial
from wsgiref.types import WSGIApplication, WSGIEnvironment

import trio

from kestrel_core.errors import ConfigurationError
from kestrel_protocols.http.exchange import ClientDisconnected, HttpExchange
from kestrel_protocols.wsgi.environ import Environs
from kestrel_protocols.wsgi.error_log import ErrorLog
from kestrel_protocols.wsgi.request_body import open_request_body
from kestrel_protocols.wsgi.request_thread import RequestThread
from kestrel_protocols.wsgi.response import LastStep, WsgiResponse

__all__ = ["WsgiApplication"]

_log = logging.getLogger("kestrel.wsgi")

# trio's default for worker threads, and Starlette's, by way of AnyIO.
DEFAULT_THREADS = 40


class WsgiApplication:
    """An `HttpApplication` that calls the WSGI application `app`, in a worker thread a request.

    `threads` is how many requests may be in threads at once, further ones wait; or a limiter, to
    share that number with others. `root_path` is the path that a proxy in front has taken off.

    A request that is cancelled, at the end of a drain say, ends at once, but its thread goes on
    until the application next reads or writes, which raises `ClientDisconnected`; it keeps its
    place in the limiter until then. The process does not wait for it when it exits.

    Raises:
        ConfigurationError: `threads` is below one, or `root_path` does not begin with a slash.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        threads: trio.CapacityLimiter | int = DEFAULT_THREADS,
        root_path: str = "",
    ) -> None:
        self.app = app
        if isinstance(threads, int):
            if threads < 1:
                raise ConfigurationError(f"threads must be 1 or more, not {threads}")
            threads = trio.CapacityLimiter(threads)
        self.limiter: trio.CapacityLimiter = threads
        self.root_path: str = root_path.rstrip("/")
        if self.root_path and not self.root_path.startswith("/"):
            raise ConfigurationError(f"a root path begins with /, unlike {root_path!r}")
        self._environs = Environs(self.root_path)

    async def __call__(self, exchange: HttpExchange) -> None:
        """Answer one exchange; with 501 if it asks for a tunnel, for which WSGI has no words."""
        if exchange.method == "CONNECT":
            await exchange.respond(501, [])
            return
        thread = RequestThread()
        environ = self._environs.environ(exchange)
        environ["wsgi.input"] = open_request_body(exchange, thread)
        environ["wsgi.errors"] = errors = ErrorLog(exchange.connection)
        response = WsgiResponse(exchange, thread)
        work = partial(_run, self.app, environ, response, thread)
        try:
            last_step = await thread.run(work, self.limiter)
        finally:
            errors.flush()
        if last_step is not None:
            await last_step()


def _run(
    app: WSGIApplication, environ: WSGIEnvironment, response: WsgiResponse, thread: RequestThread
) -> LastStep | None:
    """Call `app` in this thread; whatever it raises is an `Exception`, and is seen by somebody."""
    try:
        return _answer(app, environ, response, thread)
    except Exception as error:
        if thread.abandoned and not isinstance(error, ClientDisconnected):
            _log.exception("the application failed after its request was given up")
        raise
    except BaseException as error:  # SystemExit, say, which would end the server, not this thread
        raise RuntimeError(f"the application raised {type(error).__name__}") from error


def _answer(
    app: WSGIApplication, environ: WSGIEnvironment, response: WsgiResponse, thread: RequestThread
) -> LastStep | None:
    iterable = app(environ, response.start_response)
    close: Callable[[], object] | None = getattr(iterable, "close", None)
    if close is None:
        return response.send(iterable)
    try:
        last_step = response.send(iterable)
        if last_step is not None:  # first, as closing may take its time
            thread.call(last_step)
    finally:
        close()
    return None
