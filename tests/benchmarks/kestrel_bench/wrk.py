"""One run of wrk against a server, and what it reports."""

import json
import shutil
import subprocess

from attrs import frozen

from kestrel_bench.outcomes import WorkloadFailedError
from kestrel_bench.servers import BENCHMARK_FOLDER, Setup
from kestrel_bench.workloads import LoadWorkload, Shape

_SCRIPT = BENCHMARK_FOLDER / "load.lua"
_REQUEST_TIMEOUT_SECONDS = 5
_GRACE_SECONDS = 20
_ERROR_KINDS = ("connect", "read", "write", "status", "timeout")


@frozen(kw_only=True)
class LoadReport:
    """What wrk saw: completed responses, the time it took, latencies, and errors by kind.

    The latencies of pipelined requests are unknown: wrk times a batch as a whole and then fills its
    percentiles up for the requests that it believes were delayed, as if each had been sent alone.
    """

    requests: int
    seconds: float
    p50_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]


def missing_program() -> str | None:
    """A sentence that says how to install what is missing, or nothing."""
    if shutil.which("wrk") is None:
        return "wrk is not installed; install it with `apt-get install wrk` and run this again."
    if shutil.which("taskset") is None:
        return "taskset is not installed; install the package `util-linux` and run this again."
    return None


def wrk_version() -> str:
    """The version by which wrk names itself."""
    # wrk has no way to print its version that succeeds, so the exit code means nothing here.
    answer = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    first_line = (answer.stdout or answer.stderr).partition("\n")[0]
    return first_line.partition(" [")[0].removeprefix("wrk ").strip()


def load(workload: LoadWorkload, *, port: int, seconds: int, core: int) -> LoadReport:
    """Sends the workload's requests from one core for some seconds.

    Raises:
        WorkloadFailedError: wrk failed, or completed no request.
    """
    command = ["taskset", "-c", str(core), "wrk", "--threads=1", "--latency"]
    command += [f"--connections={workload.connections}", f"--duration={seconds}s"]
    command += [f"--timeout={_REQUEST_TIMEOUT_SECONDS}s", f"--script={_SCRIPT}"]
    scheme = "https" if workload.setup is Setup.TLS else "http"
    command += [f"{scheme}://127.0.0.1:{port}{workload.path}", "--", workload.shape.value]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + _GRACE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise WorkloadFailedError("wrk did not end in time") from None
    last_line = (finished.stdout.strip() or finished.stderr.strip()).rpartition("\n")[2]
    if finished.returncode != 0 or not last_line.startswith("{"):
        raise WorkloadFailedError(f"wrk failed: {last_line}")
    figures: dict[str, int] = json.loads(last_line)
    errors = {kind: figures[kind] for kind in _ERROR_KINDS if figures[kind]}
    if figures["requests"] == 0:
        raise WorkloadFailedError(f"no request was completed; errors: {errors or 'none'}")
    if workload.served is not None:  # a refusal is no error then, anything else is
        served = figures["requests"] - errors.pop("status", 0)
        errors |= {"served": served} if served else {}
    timed_alone = workload.shape is not Shape.PIPELINED
    return LoadReport(
        requests=figures["requests"],
        seconds=figures["duration_us"] / 1e6,
        p50_ms=figures["p50_us"] / 1e3 if timed_alone else None,
        p99_ms=figures["p99_us"] / 1e3 if timed_alone else None,
        errors=errors,
    )
