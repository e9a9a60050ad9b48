"""A stream over another that ends as a whole, for what shall not count on ending one direction."""

import trio

__all__ = ["BothWaysOnly"]


class BothWaysOnly(trio.abc.Stream):
    """A stream that cannot end one direction alone, as TLS cannot."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()
