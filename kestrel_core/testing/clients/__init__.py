"""Clients for tests, over connections of any transport; each needs a library, so none is imported here."""
