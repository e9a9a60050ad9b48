"""What a run records: one sample for each measurement, one failure for each that could not be."""

from enum import Enum

from attrs import field, frozen


class Figure(Enum):
    """What is measured; the value is the name in the raw data and carries the unit."""

    CPU_US = "cpu_us_per_request"
    REQUEST_RATE = "requests_per_second"
    CPU_US_PER_CONNECTION = "cpu_us_per_connection"
    CONNECTION_RATE = "connections_per_second"
    CPU_WITH_TO_WITHOUT = "cpu_with_to_without"
    RATE_WITH_TO_WITHOUT = "requests_per_second_with_to_without"
    CPU_US_WITHOUT = "cpu_us_per_request_without"
    RATE_WITHOUT = "requests_per_second_without"
    P50_MS = "p50_ms"
    P99_MS = "p99_ms"
    PEAK_MIB = "peak_resident_mib"
    SERVER_CORE_SHARE = "server_core_share"
    LOAD_CORE_SHARE = "load_core_share"
    CPU_SECONDS_PER_GIB = "cpu_seconds_per_gib"
    MIB_RATE = "mib_per_second"
    MOVED_MIB = "moved_mib"
    PEAK_GROWTH_MIB = "peak_resident_growth_mib"
    IDLE_KIB = "resident_kib_per_idle_connection"
    IDLE_CONNECTIONS = "idle_connections"
    BEFORE_MIB = "resident_mib_before"
    AFTER_MIB = "resident_mib_after"
    AFTER_1S_MIB = "resident_mib_after_1_s"
    AFTER_15S_MIB = "resident_mib_after_15_s"
    LEFT_MIB = "resident_growth_mib_after_15_s"


@frozen(kw_only=True)
class Sample:
    """One server under one workload in one round."""

    server: str
    workload: str
    round_number: int
    figures: dict[Figure, float]
    errors: dict[str, int]
    foreign_core_share: float
    """How much of one core other processes used meanwhile: the noise of this sample."""


@frozen(kw_only=True)
class Failure:
    """Why a server has no sample, or not one of each round."""

    server: str
    workload: str
    round_number: int
    reason: str


@frozen(kw_only=True)
class Recording:
    """All samples and failures of one run; whoever measures appends to the two lists."""

    samples: list[Sample] = field(factory=list[Sample])
    failures: list[Failure] = field(factory=list[Failure])

    def workload_samples(self, server: str, workload: str) -> list[Sample]:
        """The samples of one table cell, in the order of the rounds."""
        return [
            sample
            for sample in self.samples
            if sample.server == server and sample.workload == workload
        ]

    def failure_reason(self, server: str, workload: str) -> str | None:
        """The first reason why the server failed at the workload."""
        for failure in self.failures:
            if failure.server == server and failure.workload == workload:
                return failure.reason
        return None
