"""A Quart application on trio: kestrel quart_trio_app:app"""

from collections.abc import AsyncGenerator

import trio
from quart import request
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.get("/")
async def front() -> str:
    return "Hello from Quart on trio\n"


@app.post("/shout")
async def shout() -> str:
    text = await request.get_data(as_text=True)
    return str(text).upper()


@app.get("/stream")
async def stream() -> AsyncGenerator[str]:
    async def numbers() -> AsyncGenerator[str]:
        for number in range(3):
            yield f"{number}\n"
            await trio.sleep(0.01)

    return numbers()
