"""Streams that never end by themselves, on trio, told to a client that leaves."""

import time

import httpx
import pytest

pytestmark = pytest.mark.parametrize("server", ["event_stream:app"], indirect=True)


def test_events_arrive_one_by_one(client: httpx.Client) -> None:
    began = time.monotonic()
    with client.stream("GET", "/ticks", params={"count": "5"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        arrivals = [
            (line, time.monotonic() - began) for line in response.iter_lines() if "data" in line
        ]
    assert [line for line, _ in arrivals] == [f"data: 0.{tenth} s" for tenth in range(1, 6)]
    assert arrivals[-1][1] - arrivals[0][1] > 0.2  # not all at the end


def test_a_client_that_leaves_ends_its_stream(client: httpx.Client) -> None:
    with client.stream("GET", "/ticks") as response:
        lines = response.iter_lines()  # which ends the stream when it is dropped
        assert next(lines) == "event: tick"
        assert client.get("/watchers").text == "1"
    for _ in range(200):
        if client.get("/watchers").text == "0":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the application still streams to a client that left")
