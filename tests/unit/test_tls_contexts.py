"""How many contexts are kept."""

import pytest

from kestrel_middleware.tls import TlsOptions, contexts
from kestrel_middleware.tls.contexts import ServerContexts
from tests.tls_site import certificate


@pytest.fixture
def most_kept(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(contexts, "_MOST_KEPT", 3)
    return 3


def test_those_used_last_are_kept(most_kept: int) -> None:
    issued = certificate()
    kept = ServerContexts(session_tickets=2, key_log_file=None, check_seconds=None)
    options = [
        TlsOptions(certificate=issued.chain, key=issued.key, alpn=[f"protocol-{number}"])
        for number in range(most_kept + 1)
    ]
    first, second, third = (kept.get(each, ()) for each in options[:most_kept])
    assert kept.get(options[0], ()) is first  # so that the second is the one used longest ago
    kept.get(options[3], ())
    assert kept.get(options[0], ()) is first
    assert kept.get(options[2], ()) is third
    assert kept.get(options[1], ()) is not second
