"""The workloads: what is asked of a server, and by how many connections at once."""

from enum import Enum

from attrs import frozen


class Shape(Enum):
    """The request that is sent; the value is the name by which `load.lua` knows it."""

    PLAIN = "plain"
    BROWSER = "browser"
    ECHO = "echo"
    PIPELINED = "pipelined"


@frozen(kw_only=True)
class LoadWorkload:
    """Requests sent by wrk as fast as the server answers them."""

    name: str
    title: str
    path: str
    shape: Shape
    connections: int


@frozen(kw_only=True)
class IdleWorkload:
    """Connections that send one request each and then stay open, to weigh a connection."""

    name: str
    title: str
    connections: int


LOAD_WORKLOADS = (
    LoadWorkload(
        name="plaintext-1",
        title="Plain text, 1 connection",
        path="/",
        shape=Shape.PLAIN,
        connections=1,
    ),
    LoadWorkload(
        name="plaintext-64",
        title="Plain text, 64 connections",
        path="/",
        shape=Shape.PLAIN,
        connections=64,
    ),
    LoadWorkload(
        name="plaintext-512",
        title="Plain text, 512 connections",
        path="/",
        shape=Shape.PLAIN,
        connections=512,
    ),
    LoadWorkload(
        name="pipelined-64",
        title="Plain text, pipelined 16 deep, 64 connections",
        path="/",
        shape=Shape.PIPELINED,
        connections=64,
    ),
    LoadWorkload(
        name="browser-64",
        title="Plain text, twelve browser headers, 64 connections",
        path="/",
        shape=Shape.BROWSER,
        connections=64,
    ),
    LoadWorkload(
        name="response-10k",
        title="10 KiB response, 64 connections",
        path="/10k",
        shape=Shape.PLAIN,
        connections=64,
    ),
    LoadWorkload(
        name="echo-10k",
        title="10 KiB POST echo, 64 connections",
        path="/echo",
        shape=Shape.ECHO,
        connections=64,
    ),
)
IDLE_WORKLOAD = IdleWorkload(
    name="idle-5000",
    title="Memory of idle keep-alive connections",
    connections=5000,
)
QUICK_WORKLOADS = ("plaintext-64", "pipelined-64", "echo-10k", IDLE_WORKLOAD.name)


def workload_names() -> list[str]:
    """Every workload's name, in the order in which they run."""
    return [workload.name for workload in LOAD_WORKLOADS] + [IDLE_WORKLOAD.name]
