"""Contract suites: what the seams promise, checked on an implementation of any origin.

`pipe` is made of `pipe_reading`, `pipe_writing` and `pipe_ending`. `transport` and
`multiplexed_transport` share `binding`; the latter has its own in `streams`, `stream_limit` and
`stream_ending`. `expectations` is what all of them are written with.
"""
