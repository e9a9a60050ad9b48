"""Everything that a run's outputs are written from, and the few facts that all of them share."""

from attrs import frozen

from kestrel_bench.machine import Machine
from kestrel_bench.samples import Recording
from kestrel_bench.schedule import Plan
from kestrel_bench.servers import ServerKind

_NAMED_PACKAGES = (
    "trio-kestrel",
    "granian",
    "uvicorn",
    "hypercorn",
    "trio",
    "uvloop",
    "httptools",
    "h11",
)


@frozen(kw_only=True)
class RunFacts:
    """A finished run: when and where it was, what was planned and what was recorded."""

    started: str
    machine: Machine
    versions: dict[str, str]
    plan: Plan
    recording: Recording

    def named_versions(self) -> dict[str, str]:
        """The versions that a table names; the raw data has all of them."""
        return {name: self.versions.get(name, "not installed") for name in _NAMED_PACKAGES}

    def server_title(self, kind: ServerKind) -> str:
        """The server's title, with the event loop that granian's automatic choice takes."""
        loops = ("rloop", "uvloop", "asyncio")
        chosen = next(loop for loop in loops if loop in self.versions or loop == "asyncio")
        return kind.title.replace("loop auto", chosen)
