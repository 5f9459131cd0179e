"""`ports.OutputChecker` with jsonschema, in a process of its own.

A thread would not do: Python's `re` holds the interpreter's lock for as long as it searches, and the 9 characters of
the pattern `^(a|a)+$` held the whole daemon for 2.6 s over a text of 26.
"""

from supervisord.adapters.output_checker.process import OutputCheckProcess

__all__ = ["OutputCheckProcess"]
