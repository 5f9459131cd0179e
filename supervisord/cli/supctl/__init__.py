"""`supctl`: what an operator types. It speaks HTTP/1.1 and JSON to the daemon over the control socket."""

from supervisord.cli.supctl.program import main

__all__ = ["main"]
