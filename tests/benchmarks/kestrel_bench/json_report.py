"""The raw data of a run as JSON, from which every table can be made again."""

import json
from enum import Enum

from attrs import asdict

from kestrel_bench.run_facts import RunFacts
from kestrel_bench.samples import Sample
from kestrel_bench.workloads import Workload


def render_json(facts: RunFacts) -> str:
    """Every sample and failure, with the plan, the machine and all installed versions."""
    plan = facts.plan
    document = {
        "started": facts.started,
        "machine": asdict(facts.machine),
        "versions": facts.versions,
        "plan": {
            "servers": {kind.name: facts.server_title(kind) for kind in plan.servers},
            "workloads": [_workload(workload) for workload in plan.workloads],
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "cores": asdict(plan.cores),
        },
        "samples": [_sample(sample) for sample in facts.recording.samples],
        "failures": [asdict(failure) for failure in facts.recording.failures],
    }
    return json.dumps(document, indent=1) + "\n"


def _workload(workload: Workload) -> dict[str, object]:
    return asdict(workload, value_serializer=_plain_value)


def _plain_value(owner: object, attribute: object, value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _sample(sample: Sample) -> dict[str, object]:
    return {
        "server": sample.server,
        "workload": sample.workload,
        "round": sample.round_number,
        **{figure.value: value for figure, value in sample.figures.items()},
        "errors": sample.errors,
        "foreign_core_share": sample.foreign_core_share,
    }
