"""Bytes as lines that a person can read: text as text with its line ends, the rest as hexadecimal."""

__all__ = ["readable_lines"]

_MOST_LINES = 40
_MOST_LINE_CHARACTERS = 400
_MOST_HEX_BYTES = 64
_HEX_BYTES_PER_LINE = 16

# A line is text while no more than one byte in so many is none: a header with a NUL in it is a
# header, and a compressed body is none.
_BYTES_PER_ODD_ONE = 8

_PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


def readable_lines(data: bytes) -> list[str]:
    r"""Return `data` as lines, as many as a report has room for.

    Text is UTF-8; line ends are shown as `\r\n` or `\n`, and other bytes in it as Python would
    write them. From the first line that is not text on, all is hexadecimal. What was left out is
    told with its length.
    """
    lines: list[str] = []
    rest = data
    while rest:
        end = rest.find(b"\n") + 1 or len(rest)
        text = _text(rest[:end])
        if text is None:
            return lines + _hex_lines(rest)
        if len(lines) == _MOST_LINES:
            lines.append(f"... {len(rest)} bytes more")
            return lines
        lines.append(text)
        rest = rest[end:]
    return lines


def _text(line: bytes) -> str | None:
    """Return a line as text, or None if too little of it is."""
    characters = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    if not characters.isprintable():
        odd = sum(not (char.isprintable() or char == "\t") for char in characters)
        if odd * _BYTES_PER_ODD_ONE > len(line):
            return None
        characters = "".join(map(_escaped, characters))
    if len(characters) > _MOST_LINE_CHARACTERS:
        left_out = len(characters) - _MOST_LINE_CHARACTERS
        characters = f"{characters[:_MOST_LINE_CHARACTERS]}... {left_out} characters more "
    return characters + _line_end(line)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is no UTF-8, see `surrogateescape`
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def _line_end(line: bytes) -> str:
    end = line[len(line.rstrip(b"\r\n")) :]
    return end.decode("ascii").replace("\r", r"\r").replace("\n", r"\n")


def _hex_lines(data: bytes) -> list[str]:
    if len(data) <= _HEX_BYTES_PER_LINE:
        return [_hex_line(data, 3 * len(data))]
    shown = data[:_MOST_HEX_BYTES]
    starts = range(0, len(shown), _HEX_BYTES_PER_LINE)
    lines = [f"{len(data)} bytes:"]
    lines += [_hex_line(shown[start : start + _HEX_BYTES_PER_LINE]) for start in starts]
    if len(shown) < len(data):
        lines.append(f"... {len(data) - len(shown)} bytes more")
    return lines


def _hex_line(data: bytes, columns: int = 3 * _HEX_BYTES_PER_LINE) -> str:
    return f"{data.hex(' '):<{columns}} |{data.translate(_PRINTABLE).decode('ascii')}|"
