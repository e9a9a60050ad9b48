"""Draws where a server spends its time under one workload, with py-spy.

Exits with 0 when the picture was written, and 2 with one sentence when it could not be.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from attrs import evolve

from kestrel_bench.environment import EnvironmentBuildError, prepare_environment
from kestrel_bench.fresh_connections import crowd, visit
from kestrel_bench.large_body import transfer
from kestrel_bench.machine import choose_cores
from kestrel_bench.outcomes import WorkloadFailedError
from kestrel_bench.process_tree import tree_pids
from kestrel_bench.server_process import ServerFailedError, ServerProcess
from kestrel_bench.servers import BENCHMARK_FOLDER, KESTREL, SERVERS, Setup
from kestrel_bench.workloads import (
    CONNECTIONS_WORKLOADS,
    LOAD_WORKLOADS,
    PAIRED_WORKLOADS,
    TRANSFER_WORKLOADS,
    ConnectionsWorkload,
    LoadWorkload,
    PairedWorkload,
    TransferWorkload,
)
from kestrel_bench.wrk import load, missing_program

_PROJECT_ROOT = BENCHMARK_FOLDER.parent.parent
_WORKLOADS = {
    workload.name: workload
    for workload in (
        *LOAD_WORKLOADS,
        *PAIRED_WORKLOADS,
        *CONNECTIONS_WORKLOADS,
        *TRANSFER_WORKLOADS,
    )
}
_WARM_UP_SECONDS = 1
_FINISH_SECONDS = 30

# More often than py-spy's default of 100 a second, so that a run of seconds shows the small frames.
_SAMPLES_PER_SECOND = 500


class FlamegraphError(Exception):
    """The picture could not be drawn; the text is the sentence for the user."""


def main() -> int:
    """Draws what the command line asks for and returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw a flame graph of a server under load.")
    parser.add_argument("--server", choices=[kind.name for kind in SERVERS], default=KESTREL)
    parser.add_argument("--workload", choices=list(_WORKLOADS), default="plaintext-64")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--native", action="store_true", help="show the frames of C code, too")
    parser.add_argument("--env", type=Path, default=_PROJECT_ROOT / ".venv-bench")
    parser.add_argument("--output", type=Path, default=BENCHMARK_FOLDER / "results/flamegraph.svg")
    given = parser.parse_args()
    try:
        draw(
            server=given.server,
            workload_name=given.workload,
            seconds=given.seconds,
            native=given.native,
            directory=given.env.absolute(),
            output=given.output,
        )
    except (
        FlamegraphError,
        EnvironmentBuildError,
        ServerFailedError,
        WorkloadFailedError,
    ) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Written to {given.output}", file=sys.stderr)
    return 0


def draw(
    *,
    server: str,
    workload_name: str,
    seconds: int,
    native: bool,
    directory: Path,
    output: Path,
) -> None:
    """Loads the server for some seconds while py-spy watches all of its processes.

    Raises:
        FlamegraphError: a program is missing, the server has no such setup, or py-spy failed.
        EnvironmentBuildError: the peers' environment cannot be built.
        ServerFailedError: the server does not start.
        WorkloadFailedError: the server does not answer under load.
    """
    problem = missing_program()
    if problem is not None:
        raise FlamegraphError(problem)
    spy = shutil.which("py-spy", path=f"{directory / 'bin'}:{Path(sys.executable).parent}")
    spy = spy or shutil.which("py-spy")
    if spy is None:
        raise FlamegraphError("py-spy is not installed; `pip install py-spy` and run this again.")
    environment = prepare_environment(directory, _PROJECT_ROOT)
    cores = choose_cores()
    kind = next(kind for kind in SERVERS if kind.name == server)
    workload = _WORKLOADS[workload_name]
    if not kind.offers(workload.setup):
        raise FlamegraphError(f"{server} has nothing called {workload.setup.value}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        ServerProcess(kind, environment, core=cores.server, setup=workload.setup) as process,
        ExitStack() as crowded,
    ):
        process.wait_ready()
        if isinstance(workload, ConnectionsWorkload):
            crowded.enter_context(crowd(workload, port=process.port))
        _keep_busy(process, workload_name, seconds=_WARM_UP_SECONDS, core=cores.load)
        command = [spy, "record", "--pid", str(process.pid), "--duration", str(seconds)]
        command += ["--rate", str(_SAMPLES_PER_SECOND), "--format", "flamegraph"]
        command += ["--output", str(output)]
        if native:
            command.append("--native")
        if len(tree_pids(process.pid)) > 1:
            command.append("--subprocesses")
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as recorder:
            try:
                _keep_busy(process, workload_name, seconds=seconds + 1, core=cores.load)
                _, complaint = recorder.communicate(timeout=_FINISH_SECONDS)
            except (WorkloadFailedError, subprocess.TimeoutExpired) as error:
                recorder.kill()
                raise FlamegraphError(f"the recording was given up: {error}") from error
        if recorder.returncode != 0:
            last_line = complaint.strip().rpartition("\n")[2]
            raise FlamegraphError(f"py-spy failed: {last_line}")


def _keep_busy(process: ServerProcess, workload_name: str, *, seconds: int, core: int) -> None:
    workload = _WORKLOADS[workload_name]
    match workload:
        case LoadWorkload():
            load(workload, port=process.port, seconds=seconds, core=core)
        case PairedWorkload():
            layered = evolve(workload.load, setup=workload.setup)
            load(layered, port=process.port, seconds=seconds, core=core)
        case ConnectionsWorkload():
            os.sched_setaffinity(0, {core})
            visit(workload, port=process.port, seconds=seconds)
        case TransferWorkload():
            os.sched_setaffinity(0, {core})
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                transfer(
                    workload.transfer,
                    port=process.port,
                    path=workload.path,
                    body_bytes=workload.body_bytes,
                    tls=workload.setup is Setup.TLS,
                )


if __name__ == "__main__":
    sys.exit(main())
