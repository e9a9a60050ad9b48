"""A small Starlette application to look at in a browser: make serve, or

kestrel --app-dir docs/examples demo:app
"""

from collections.abc import AsyncIterator
from html import escape
from urllib.parse import parse_qsl

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; }}
  h1 {{ font-size: 1.6rem; }}
  table {{ border-collapse: collapse; }}
  td, th {{ text-align: left; padding: .15rem 1rem .15rem 0; font-weight: normal; opacity: .9; }}
  th {{ opacity: .6; }}
  pre, input, button {{ font: .95rem/1.5 ui-monospace, monospace; padding: .4rem .6rem; }}
  pre {{ border: 1px solid #8886; border-radius: .4rem; min-height: 1.5em; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""

FRONT = """
<p>This page came over the connection that the table describes.</p>
<table>
<tr><th>protocol<td>HTTP/{http_version}
<tr><th>client<td>{client}
<tr><th>server<td>{server}
</table>

<h2>Streaming</h2>
<p><button id="start">Receive ten lines</button> Each one appears when it is sent.</p>
<pre id="lines"></pre>

<h2>A form</h2>
<form action="/echo" method="post">
  <input name="text" placeholder="Say something" aria-label="Something to say" required>
  <button>Send</button>
</form>

<p>And <a href="/json">some JSON</a>.</p>
<script>
  const lines = document.getElementById("lines");
  document.getElementById("start").onclick = async () => {{
    lines.textContent = "";
    const response = await fetch("/stream");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {{
      const {{done, value}} = await reader.read();
      if (done) break;
      lines.textContent += value;
    }}
  }};
</script>
"""


def page(title: str, body: str) -> HTMLResponse:
    return HTMLResponse(PAGE.format(title=escape(title), body=body))


def facts(request: Request) -> dict[str, str]:
    host, port = request.scope["server"] or ("", None)
    return {
        "http_version": request.scope["http_version"],
        "client": str(request.client.host) if request.client else "unnamed",
        "server": host if port is None else f"{host}:{port}",
    }


async def front(request: Request) -> Response:
    values = {name: escape(value) for name, value in facts(request).items()}
    return page("trio-kestrel is running", FRONT.format(**values))


async def json(request: Request) -> Response:
    return JSONResponse(facts(request))


async def stream(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for number in range(1, 11):
            yield f"line {number} of 10\n"
            await trio.sleep(0.2)

    return StreamingResponse(lines(), media_type="text/plain")


async def echo(request: Request) -> Response:
    fields = parse_qsl((await request.body()).decode())
    rows = "".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in fields)
    return page("You sent", f'<table>{rows}</table><p><a href="/">Back</a></p>')


app = Starlette(
    routes=[
        Route("/", front),
        Route("/json", json),
        Route("/stream", stream),
        Route("/echo", echo, methods=["POST"]),
    ]
)
