"""Compares kestrel with its peers and writes the results; README.md beside this file says how.

Exits with 0 when something was measured, 1 when nothing was, 2 when the run cannot begin, and 130
when it was interrupted; what was recorded until then is written all the same.
"""

import argparse
import datetime
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from attrs import frozen

from kestrel_bench.bar_chart import render_svg
from kestrel_bench.environment import EnvironmentBuildError, prepare_environment
from kestrel_bench.idle_connections import allow_many_open_files
from kestrel_bench.json_report import render_json
from kestrel_bench.machine import Cores, choose_cores, describe_machine
from kestrel_bench.markdown_report import render_markdown
from kestrel_bench.run_facts import RunFacts
from kestrel_bench.schedule import Measurement, Plan
from kestrel_bench.servers import BENCHMARK_FOLDER, QUICK_SERVERS, SERVERS
from kestrel_bench.workloads import QUICK_WORKLOADS, WORKLOADS, workload_names
from kestrel_bench.wrk import missing_program, wrk_version

PROJECT_ROOT = BENCHMARK_FOLDER.parent.parent
_SECONDS, _QUICK_SECONDS = 3, 2
_ROUNDS, _QUICK_ROUNDS = 3, 2


@frozen(kw_only=True)
class Options:
    """The command line with every default decided."""

    plan: Plan
    environment: Path
    output: Path


def main() -> int:
    """Runs the benchmark that the command line asks for and returns the exit code."""
    options = parse_options(sys.argv[1:])
    problem = missing_program()
    if problem is not None:
        print(problem, file=sys.stderr)
        return 2
    try:
        environment = prepare_environment(options.environment, PROJECT_ROOT)
    except EnvironmentBuildError as error:
        print(error, file=sys.stderr)
        return 2
    machine = describe_machine(wrk=wrk_version())
    allow_many_open_files()
    # This process is the client where wrk is not, so it stays off the servers' core too.
    os.sched_setaffinity(0, {options.plan.cores.load})
    signal.signal(signal.SIGTERM, _interrupt)
    started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    measurement = Measurement(options.plan, environment)
    interrupted = False
    try:
        measurement.run()
    except KeyboardInterrupt:
        interrupted = True
    facts = RunFacts(
        started=started,
        machine=machine,
        versions=environment.versions(),
        plan=options.plan,
        recording=measurement.recording,
    )
    _write_results(facts, options.output)
    if interrupted:
        return 130
    return 0 if measurement.recording.samples else 1


def parse_options(arguments: Sequence[str]) -> Options:
    """Reads the command line; exits with 2, as argparse does, on a name that does not exist."""
    parser = argparse.ArgumentParser(description="Compare kestrel with its peers.")
    names = [kind.name for kind in SERVERS]
    parser.add_argument("--quick", action="store_true", help="key servers and workloads only")
    parser.add_argument("--servers", type=_names, help=f"comma-separated: {', '.join(names)}")
    parser.add_argument(
        "--workloads", type=_names, help=f"comma-separated: {', '.join(workload_names())}"
    )
    parser.add_argument("--seconds", type=int, help=f"of a measured run; {_SECONDS} by default")
    parser.add_argument("--rounds", type=int, help=f"{_ROUNDS} by default")
    parser.add_argument("--cores", type=_cores, help="SERVER,LOAD; the last and first by default")
    parser.add_argument("--env", type=Path, help="the peers' environment; .venv-bench by default")
    parser.add_argument("--output", type=Path, help="folder for the results; results/ by default")
    given = parser.parse_args(arguments)
    quick: bool = given.quick
    servers: list[str] = given.servers or (list(QUICK_SERVERS) if quick else names)
    workloads: list[str] = given.workloads or (list(QUICK_WORKLOADS) if quick else workload_names())
    for name in (*servers, *workloads):
        if name not in (*names, *workload_names()):
            parser.error(f"there is no server or workload {name!r}")
    plan = Plan(
        servers=tuple(kind for kind in SERVERS if kind.name in servers),
        workloads=tuple(workload for workload in WORKLOADS if workload.name in workloads),
        rounds=given.rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
        seconds=given.seconds or (_QUICK_SECONDS if quick else _SECONDS),
        cores=given.cores or choose_cores(),
    )
    return Options(
        plan=plan,
        environment=(given.env or PROJECT_ROOT / ".venv-bench").absolute(),
        output=given.output or BENCHMARK_FOLDER / "results",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _cores(text: str) -> Cores:
    server, _, load = text.partition(",")
    return Cores(server=int(server), load=int(load))


def _interrupt(number: int, frame: object) -> NoReturn:
    # A termination must unwind like Ctrl-C does, or the servers' process groups would stay.
    raise KeyboardInterrupt


def _write_results(facts: RunFacts, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    markdown = render_markdown(facts)
    (folder / "results.md").write_text(markdown, encoding="utf-8")
    (folder / "results.json").write_text(render_json(facts), encoding="utf-8")
    (folder / "results.svg").write_text(render_svg(facts), encoding="utf-8")
    print(markdown)
    print(f"Written to {folder}: results.md, results.json, results.svg", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
