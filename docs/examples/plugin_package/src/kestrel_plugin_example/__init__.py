"""Three plug-ins for trio-kestrel: `mptcp://` endpoints, `deflate` and the protocol `git`.

Nothing is imported here, so that a server which uses one of them loads no other.
"""
