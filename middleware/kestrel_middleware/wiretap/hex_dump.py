"""Bytes as people read them: offsets, hexadecimal and ASCII, in the form of `hexdump -C`."""

__all__ = ["hex_dump"]

_BYTES_PER_LINE = 16

# Two groups of eight, each "xx xx ..." and the blanks between them.
_HEX_COLUMNS = 2 * (8 * 3 - 1) + 2

_PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


def hex_dump(data: bytes, offset: int = 0) -> str:
    """Return `data` as lines of sixteen bytes, the first of them called `offset`.

    What is not printable ASCII is shown as a dot. No line end behind the last line.
    """
    return "\n".join(
        _line(data[start : start + _BYTES_PER_LINE], offset + start)
        for start in range(0, len(data), _BYTES_PER_LINE)
    )


def _line(data: bytes, offset: int) -> str:
    columns = f"{data[:8].hex(' ')}  {data[8:].hex(' ')}"
    text = data.translate(_PRINTABLE).decode("ascii")
    return f"{offset:08x}  {columns:<{_HEX_COLUMNS}}  |{text}|"
