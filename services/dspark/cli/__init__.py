"""The command line: ``dspark up | down | status | scale | chat | generate | demo | ...``.

Path: ``main`` parses, a command module does one thing, ``stack`` owns processes.  A command
imports what it needs when it runs, so that ``--help`` costs no torch and no ray.  Errors are one
line on stderr: 1 for what went wrong, 2 for what was asked wrongly.
"""

from dspark.cli.main import main

__all__ = ["main"]
