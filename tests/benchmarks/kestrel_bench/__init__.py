"""The benchmark harness: it starts servers, loads them, reads their cost and compares them.

`environment`, `certificate` and `servers` say what is run, `workloads` with what. `wrk`,
`large_body`, `fresh_connections`, `idle_connections`, `slow_peer` and `burst` are the clients, most
of them over a `client_socket`; `server_process`, `process_tree`, `cost_clock` and `resident_memory`
watch the server. `measurements` puts them together, a function for each kind of workload, and
`schedule` interleaves those into rounds of `samples`. `comparison` reduces the samples to medians
and ratios, `layouts` says which of them matter, and `markdown_report`, `json_report` and
`bar_chart` write them down. Nothing here is imported by the
project's packages, and nothing here imports them: a server under test is only ever a command.
"""
