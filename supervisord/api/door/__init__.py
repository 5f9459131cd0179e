"""HTTP/1.1 for clients on asyncio Protocols: the public address, as `adapters/upstream` is the way to the backends.

aiohttp's server costs 88 us of CPU for a bare 404, more than a whole proxied request may; this one little more than its
system calls. There is no task for a connection, and one for a request only where it has to wait for something.
"""

from supervisord.api.door.application import Application, DoorLimits, Taking, Upload, Work
from supervisord.api.door.body import Body
from supervisord.api.door.client import HttpClient
from supervisord.api.door.request import Request
from supervisord.api.door.response import Response, json_answer
from supervisord.api.door.server import Door

__all__ = [
    "Application",
    "Body",
    "Door",
    "DoorLimits",
    "HttpClient",
    "Request",
    "Response",
    "Taking",
    "Upload",
    "Work",
    "json_answer",
]
