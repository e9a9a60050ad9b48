"""Seeds that have shown a bug, with what it was; a plain test shows the same in the usual place.

A change of how plans are drawn makes other simulations of them; the plain tests remain.
"""

__all__ = ["FOUND"]

FOUND: dict[int, str] = {
    538: "a connection that had said its last, and was done, was flushed once more, and so called reset",
    4188: "a refusal that the client did not take in time was cut off, and looked like a whole one",
}
