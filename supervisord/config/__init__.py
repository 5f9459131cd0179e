"""The configuration file: schema, parsing, loading."""
