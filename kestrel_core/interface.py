"""The interfaces that an application may have."""

import inspect
from enum import Enum

__all__ = ["Interface"]


class Interface(Enum):
    """How an application is called: (its name on the command line, what it is, its parameters)."""

    ASGI = ("asgi", "an ASGI 3 application", ("scope", "receive", "send"))
    WSGI = ("wsgi", "a WSGI application", ("environ", "start_response"))
    NATIVE = ("native", "a native handler", ("exchange",))

    def __init__(self, option: str, noun: str, parameters: tuple[str, ...]) -> None:
        self.option: str = option
        self.noun: str = noun
        self.parameters: tuple[str, ...] = parameters

    @classmethod
    def of(cls, option: str) -> "Interface":
        """Return the one that is called `option` on the command line."""
        return next(interface for interface in cls if interface.option == option)

    def check(self, application: object) -> None:
        """Check, as far as `application` tells, that it takes the parameters.

        Raises:
            TypeError: it cannot be called, or not so.
        """
        if not callable(application):
            raise TypeError(f"{application!r} cannot be called")
        try:
            signature = inspect.signature(application)
        except ValueError:  # written in C, perhaps: it does not tell
            return
        signature.bind(*self.parameters)

    def fits(self, application: object) -> bool:
        """Tell whether `application` may have this interface."""
        try:
            self.check(application)
        except TypeError:
            return False
        return True
