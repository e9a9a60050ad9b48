"""The errors of the framework: whose fault it was and what to do about it.

Pipes raise trio's own `BusyResourceError`, `ClosedResourceError` and `BrokenResourceError`, so
that every trio tool understands them. What is left, all of it about setting a server up, is here.
"""

__all__ = [
    "BindError",
    "ConfigurationError",
    "EndpointError",
    "KestrelError",
    "MissingExtraError",
    "PluginError",
]


class KestrelError(Exception):
    """The root of every error that this framework raises of its own."""


class ConfigurationError(KestrelError, ValueError):
    """What the operator asked for cannot be done; the text says what to change."""


class EndpointError(ConfigurationError):
    """An endpoint's text is wrong; the text is quoted and the fault pointed at."""

    def __init__(self, text: str, fault: str, position: int | None = None) -> None:
        pointer = "" if position is None else f"\n  {text}\n  {' ' * position}^"
        super().__init__(f"bad endpoint {text!r}: {fault}{pointer}")
        self.text = text
        self.fault = fault
        self.position = position


class BindError(KestrelError, OSError):
    """An endpoint could not be bound; the cause is chained where the system gave one."""


class PluginError(KestrelError, LookupError):
    """A plug-in is unknown, offered twice, or failed to load."""


class MissingExtraError(PluginError):
    """A plug-in is known but a library it needs is not installed; the text names the extra."""
