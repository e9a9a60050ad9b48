"""The fixtures for pytest work with both plug-ins that run trio, and tell of what failed."""

import inspect
import subprocess
import sys
from collections.abc import Sequence
from textwrap import dedent

import pytest

from kestrel_core.testing import Serve, serve

pytest_plugins = ["pytester"]

PYTEST_TRIO = """
    [pytest]
    trio_mode = true
    filterwarnings = error
"""

ANYIO = """
    [pytest]
    anyio_mode = auto
    filterwarnings = error
"""

# What the test files inside begin with.
APPLICATION = """
    import weakref

    import pytest
    import trio

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError("HTTP alone")
        await trio.sleep(12.5)
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"Hello"})

    async def get(server):
        connection = await server.connect()
        await connection.transport.output.send(b"GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n")
        return await connection.transport.input.read_until(b"Hello", 4096)
"""

# For anyio's plug-in, beside the fixture of the clock.
ON_TRIO = """
    @pytest.fixture
    def anyio_backend(kestrel_clock):
        return "trio", {"clock": kestrel_clock}
"""

ONE_FAILS = """
    async def test_it_fails(kestrel_serve, kestrel_clock):
        async with kestrel_serve(app) as server:
            assert b"200" not in await get(server)
"""

THE_SERVER_IS_A_FIXTURE = """
    @pytest.fixture
    async def server(kestrel_serve):
        async with kestrel_serve(app) as server:
            yield server

    async def test_it_passes(server, kestrel_clock):
        assert b"200" in await get(server)
        assert trio.current_time() == 12.5

    async def test_it_fails(server, kestrel_clock):
        assert b"200" not in await get(server)
"""

TRANSCRIPT = [
    "*- kestrel: server 1 -*",
    "connection 1*: sent 27 bytes, received * bytes",
    r"*+0.000 s  -> GET / HTTP/1.1\r\n",
    r"*host: a\r\n",
    r"*+12.500 s  <- HTTP/1.1 200 *\r\n",
    "*Hello",
]


def run(pytester: pytest.Pytester, *pieces: str, args: Sequence[str] = ()) -> pytest.RunResult:
    pytester.makepyfile(test_inside="".join(map(dedent, pieces)))
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)


@pytest.fixture(autouse=True)
def short_summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pytest summarize as it does for people, and not for CI, where it repeats whole notes."""
    for variable in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(params=[PYTEST_TRIO, ANYIO], ids=["pytest-trio", "anyio"])
def site(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> "Site":
    return Site(pytester, str(request.param))


class Site:
    """Where test files are written and run, as one of the two plug-ins wants them."""

    def __init__(self, pytester: pytest.Pytester, ini: str) -> None:
        self.pytester = pytester
        self.is_anyio = ini == ANYIO
        pytester.makefile(".ini", pytest=ini)

    def run(self, *pieces: str, args: Sequence[str] = ()) -> pytest.RunResult:
        on_trio = [ON_TRIO] if self.is_anyio else []
        return run(self.pytester, APPLICATION, *on_trio, *pieces, args=args)


def test_a_failure_shows_what_went_over_the_wire_and_when(site: Site) -> None:
    result = site.run(ONE_FAILS)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(TRANSCRIPT)
    assert str(result.stdout).count("+12.500 s") == 1, (
        "the exception has no note that says the same"
    )


def test_a_fixture_may_serve(site: Site) -> None:
    result = site.run(THE_SERVER_IS_A_FIXTURE, args=["-rA"])
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(TRANSCRIPT)
    assert str(result.stdout).count("kestrel: server") == 1, "the other test passed"


def test_a_fixture_that_fails_shows_it_too(site: Site) -> None:
    result = site.run(
        """
        @pytest.fixture
        async def server(kestrel_serve):
            async with kestrel_serve(app) as server:
                assert b"200" not in await get(server)
                yield server

        async def test_it_never_runs(server, kestrel_clock):
            pass
        """
    )
    if site.is_anyio:
        result.assert_outcomes(errors=1)
    else:
        result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(TRANSCRIPT)


def test_each_server_has_a_section(site: Site) -> None:
    result = site.run(
        """
        async def test_it_fails(kestrel_serve, kestrel_clock):
            async with kestrel_serve(app) as one, kestrel_serve(app) as other:
                await get(other)
                assert False
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*- kestrel: server 1 -*", "*- kestrel: server 2 -*", *TRANSCRIPT[1:]]
    )


def test_a_server_that_cannot_report_hides_nothing(site: Site) -> None:
    result = site.run(
        """
        async def test_it_fails(kestrel_serve, kestrel_clock):
            async with kestrel_serve(app) as server:
                server.report = lambda: 1 / 0
                assert False, "the reason"
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*the reason*", "*- kestrel: server 1 -*", "its report could not be made:", "Zero*"]
    )


def test_nothing_is_kept_when_the_test_is_over(site: Site) -> None:
    result = site.run(
        """
        seen = []

        async def test_one(kestrel_serve, kestrel_clock):
            async with kestrel_serve(app) as server:
                seen.append(weakref.ref(server))

        async def test_two():
            import gc
            gc.collect()
            assert [ref() for ref in seen] == [None]
        """
    )
    result.assert_outcomes(passed=2)


def test_of_many_servers_the_last_are_shown(site: Site) -> None:
    result = site.run(
        """
        async def test_it_fails(kestrel_serve, kestrel_clock):
            for _ in range(12):
                async with kestrel_serve(app):
                    pass
            assert False
        """
    )
    shown = [line for line in result.outlines if "kestrel: server" in line]
    assert len(shown) == 10
    assert "kestrel: server 3" in shown[0]
    assert "kestrel: server 12" in shown[-1]


def test_it_is_called_like_serve(kestrel_serve: Serve) -> None:
    assert inspect.signature(kestrel_serve) == inspect.signature(serve)


def test_options_are_handed_on(site: Site) -> None:
    result = site.run(
        """
        async def test_it_fails(kestrel_serve, kestrel_clock):
            async with kestrel_serve(app, root_path="/x", adds_notes=True) as server:
                await get(server)
                assert False
        """
    )
    assert str(result.stdout).count("+12.500 s") == 2, "in the note and in the section"


# Where it cannot work ---------------------------------------------------------------------------


def test_asyncio_is_told_apart(pytester: pytest.Pytester) -> None:
    pytester.makeini(ANYIO)
    result = run(
        pytester,
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_it_fails(kestrel_serve):
            async with kestrel_serve(None):
                pass
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: kestrel_serve needs trio: mark the test *"])


@pytest.mark.parametrize(
    ("ini", "piece"),
    [
        (
            PYTEST_TRIO,
            """
            @pytest.mark.usefixtures("kestrel_clock")
            async def test_it_fails(kestrel_serve):
                async with kestrel_serve(app):
                    pass
            """,
        ),
        (
            ANYIO,
            """
            @pytest.fixture
            def anyio_backend():
                return "trio"

            async def test_it_fails(kestrel_serve, kestrel_clock):
                async with kestrel_serve(app):
                    pass
            """,
        ),
    ],
    ids=["pytest-trio", "anyio"],
)
def test_a_clock_that_is_not_in_use_is_found(
    pytester: pytest.Pytester, ini: str, piece: str
) -> None:
    pytester.makeini(ini)
    result = run(pytester, APPLICATION, piece)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: kestrel_clock was asked for, but this test *"])


# The seed ---------------------------------------------------------------------------------------

SEEDS = """
    def test_one(kestrel_seed):
        assert False, kestrel_seed

    def test_two(kestrel_seed):
        assert False, kestrel_seed

    def test_three():
        assert False
"""


def seeds(pytester: pytest.Pytester) -> list[int]:
    result = run(pytester, SEEDS)
    result.assert_outcomes(failed=3)
    wanted = " to have it again, set KESTREL_SEED="
    shown = [line.split(";") for line in result.outlines if wanted in line]
    for seed, how in shown:
        assert how == f"{wanted}{seed}"
        result.stdout.fnmatch_lines(["*- kestrel: seed -*", f"{seed};*"])
        result.stdout.fnmatch_lines([f"E *AssertionError: {seed}"])
    return [int(seed) for seed, _ in shown]


def test_each_test_has_a_seed_of_its_own_and_keeps_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KESTREL_SEED", raising=False)
    first = seeds(pytester)
    assert len(set(first)) == 2
    assert seeds(pytester) == first


def test_the_seed_may_be_given(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KESTREL_SEED", "4711")
    assert seeds(pytester) == [4711, 4711]


def test_a_seed_that_is_no_number_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KESTREL_SEED", "x")
    result = run(pytester, "def test_one(kestrel_seed): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["KESTREL_SEED must be a whole number, not 'x'"])


# What it costs ----------------------------------------------------------------------------------


def test_it_imports_nothing_before_it_is_used() -> None:
    program = """
        import collections, contextlib, os, pytest, sys, traceback, typing, zlib
        before = set(sys.modules)
        import kestrel_pytest
        print(*sorted(set(sys.modules) - before))
    """
    ran = subprocess.run(
        [sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["kestrel_pytest"]
