"""Connection middleware: what wraps the bytes of a connection before a protocol speaks on it.

Modules here know the core and never each other, nor a transport or a protocol.
"""
