"""`wsgi.file_wrapper`: a file as the iterable of its blocks (PEP 3333, optional file handling)."""

from collections.abc import Callable
from typing import Protocol

__all__ = ["FileWrapper"]

# Each block is a visit to the event loop. Frameworks ask for blocks of 8 KiB, and the PEP lets a
# server take larger ones.
_LEAST_BLOCK_BYTES = 64 * 1024


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """Iterates over what is left of `file` in blocks; has its `close`, if that has one."""

    def __init__(self, file: _Readable, block_bytes: int = _LEAST_BLOCK_BYTES) -> None:
        self._file = file
        self._block_bytes = max(block_bytes, _LEAST_BLOCK_BYTES)
        close: Callable[[], object] | None = getattr(file, "close", None)
        if close is not None:
            self.close: Callable[[], object] = close

    def __iter__(self) -> "FileWrapper":
        return self

    def __next__(self) -> bytes:
        block = self._file.read(self._block_bytes)
        if not block:
            raise StopIteration
        return block
