"""Contract suites: what the seams promise, checked on an implementation of any origin.

`pipe` is made of `pipe_reading`, `pipe_writing` and `pipe_ending`; `expectations` is what all of
them are written with.
"""
