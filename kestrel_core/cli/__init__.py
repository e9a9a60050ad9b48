"""The command `kestrel`: it serves an application, or lists the plug-ins.

It composes what a program of one's own would compose, and gets protocols and transports through
the registry as everybody does. Signals, exit codes and the configuration of logging live here and
nowhere else.
"""

from kestrel_core.cli.command import main as main
