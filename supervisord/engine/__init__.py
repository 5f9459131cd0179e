"""The asyncio loops over the ports. Imports no IO library."""
