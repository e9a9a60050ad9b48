"""The contract of a multiplexed transport, as a suite that any implementation can run."""

from functools import partial

from kestrel_core.endpoint import Endpoint
from kestrel_core.testing.contracts.binding import BINDING_CHECKS
from kestrel_core.testing.contracts.bound_streams import BoundStreams, open_stream_maker
from kestrel_core.testing.contracts.bound_transport import check_bound_pipes, hold_bound
from kestrel_core.testing.contracts.expectations import expect, promise_of
from kestrel_core.testing.contracts.stream_ending import STREAM_ENDING_CHECKS
from kestrel_core.testing.contracts.stream_limit import STREAM_LIMIT_CHECKS
from kestrel_core.testing.contracts.streams import STREAM_CHECKS, StreamCheck
from kestrel_core.transport import Transport

__all__ = ["check_multiplexed_transport"]


async def check_multiplexed_transport(
    transport: Transport, endpoint: str, *, check_pipes: bool = True
) -> None:
    """Hold `transport` to what `kestrel_core.transport` and `MultiplexedConnection` promise.

    It is bound to `endpoint`, such as "memory-streams://name", again and again, and connected to
    where it was bound; each check has a context of its own and leaves nothing bound. Streams are
    opened from both sides, 20 at once and more. Their pipes go through `check_pipe`, unless told
    otherwise. What is shared with `check_transport` is checked here, too.

    A check that hangs is given up after ten seconds of trio's clock, so run this under an
    autojump clock if no socket takes part.

    Raises:
        AssertionError: a promise is not kept; the text begins with it.
    """
    expect(transport.multiplexed, "`multiplexed` is true where connections carry streams")
    asked = Endpoint.parse(endpoint, [transport.scheme])
    for check in BINDING_CHECKS:
        await hold_bound(promise_of(check), check, BoundStreams, transport, asked)
    for stream_check in (*STREAM_CHECKS, *STREAM_LIMIT_CHECKS, *STREAM_ENDING_CHECKS):
        for swapped in (False, True):
            at_ends = partial(_at_ends, stream_check, swapped)
            await hold_bound(promise_of(stream_check), at_ends, BoundStreams, transport, asked)
    if check_pipes:
        for swapped in (False, True):
            open_maker = partial(open_stream_maker, swapped=swapped)
            await check_bound_pipes(open_maker, BoundStreams, transport, asked)


async def _at_ends(check: StreamCheck, swapped: bool, bound: BoundStreams) -> None:
    async with bound.ends(swapped=swapped) as (near, far):
        await check(bound, near, far)
