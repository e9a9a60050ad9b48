"""Every time limit has a proof: a new one without one fails here, by its name."""

import inspect

import pytest

from tests.virtual_time.proofs import fixed_times, options_of_time, proven

OPTIONS = options_of_time()
PROVEN = proven()

# What is a number of seconds, and yet nothing that happens in trio's time.
NOT_PROVEN = {
    "hsts.max_age_seconds": "browsers are told it",
    "kestrel_core.cli.serve_options.DEFAULT_DRAIN_SECONDS": "a default of `Server.drain`'s",
    "kestrel_middleware.asgi.rate_limit.concurrency_limit._RETRY_AFTER_SECONDS": "told to clients",
    "kestrel_middleware.tls.client._HANDSHAKE_SECONDS": "an option's default",
    "kestrel_middleware.tls.server.DEFAULT_HANDSHAKE_SECONDS": "an option's default",
    "kestrel_middleware.tls.server.DEFAULT_RELOAD_SECONDS": "an option's default",
    "kestrel_transports._listeners._FULL_SECONDS": "of sockets: no file descriptors are left",
    "kestrel_transports.unix._RETRY_SECONDS": "of sockets: the accept queue is full",
}


@pytest.mark.parametrize("name", sorted([*OPTIONS, *fixed_times()]))
def test_each_has_a_proof(name: str) -> None:
    assert (name in PROVEN) != (name in NOT_PROVEN)


def test_nothing_is_proven_that_does_not_exist() -> None:
    assert {*PROVEN, *NOT_PROVEN} - {*OPTIONS, *fixed_times()} == set()


@pytest.mark.parametrize("name", sorted(PROVEN))
def test_each_proof_is_a_test_in_virtual_time(name: str) -> None:
    for test in PROVEN[name]:
        assert test.__name__.startswith("test_")
        assert {"autojump_clock", "mock_clock"} & inspect.signature(test).parameters.keys()


def test_the_inventory_is_not_empty() -> None:
    """Of each place where it looks, it finds something."""
    assert {"Limits.keep_alive_seconds", "tls.reload_seconds", "rate_limit.limit"} <= OPTIONS.keys()
    assert {"Server.drain(seconds)", "serve(drain_seconds)"} <= OPTIONS.keys()
    assert "kestrel_core.memory._EVICTION_SECONDS" in fixed_times()
