"""The benchmark harness: it starts servers, loads them, reads their cost and compares them.

`environment` and `servers` say what is run, `workloads` with what; `server_process`,
`process_tree`, `wrk` and `idle_connections` each do one measurement's part; `schedule` interleaves
the measurements into rounds of `samples`; `comparison` reduces those to medians and ratios, and
`markdown_report`, `json_report` and `bar_chart` write them down. Nothing here is imported by the
project's packages, and nothing here imports them: a server under test is only ever a command.
"""
