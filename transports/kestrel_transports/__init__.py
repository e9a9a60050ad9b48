"""The transports that ship with the framework, one module each, found by entry point.

They know `kestrel_core` and not each other; nothing here is imported until its scheme is asked
for. What the socket transports share is in modules with an underscore.
"""
