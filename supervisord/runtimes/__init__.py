"""Pure descriptions of the kinds of server, one file a runtime."""
