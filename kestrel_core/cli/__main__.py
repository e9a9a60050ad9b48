"""Makes `python -m kestrel_core.cli` the command `kestrel`."""

from kestrel_core.cli.command import main

if __name__ == "__main__":
    main()
