"""How a fuzz input is read: bytes of a client, and behind them how they are delivered.

The end of an input decides and its beginning is plain text, so that a corpus can be read, and a
mutation of the one leaves the other as it was. The last byte, modulo 8, is the number of sizes; those
are the bytes before it; a target's own options are the bytes before these. The text is delivered in
pieces of those sizes, over and over, and without sizes in one piece. A zero stands for 256.
"""

from collections.abc import Iterator

import attrs

__all__ = ["Delivery"]

_MOST_SIZES = 8


@attrs.frozen
class Delivery:
    """A client's bytes, the pieces in which they are sent, and a target's options."""

    text: bytes
    sizes: bytes
    options: bytes

    @classmethod
    def of(cls, data: bytes, *, option_count: int = 0) -> "Delivery":
        """Take an input apart; what is missing at its beginning is zero."""
        size_count = data[-1] % _MOST_SIZES if data else 0
        count = option_count + size_count + 1
        data = data.rjust(count, b"\0")
        text, tail = data[:-count], data[-count:-1]
        return cls(text, tail[option_count:], tail[:option_count])

    def pieces(self) -> Iterator[bytes]:
        """Return the text in pieces, none of them empty."""
        position, turn = 0, 0
        while position < len(self.text):
            size = len(self.text)
            if self.sizes:
                size = self.sizes[turn % len(self.sizes)] or 256
            yield self.text[position : position + size]
            position, turn = position + size, turn + 1
