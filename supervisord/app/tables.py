"""All that is served on the public address, table by table."""

from supervisord.api.anthropic import AnthropicDoor
from supervisord.api.anthropic_batches import MessageBatchesDoor
from supervisord.api.audio import AudioDoor
from supervisord.api.batches import BatchesDoor
from supervisord.api.files import FilesDoor
from supervisord.api.jobs import JobsDoor
from supervisord.api.later import Later
from supervisord.api.openai import OpenAIDoor
from supervisord.api.openapi import OpenApiDoor
from supervisord.api.responses import ResponsesDoor
from supervisord.api.router import Table
from supervisord.app.version import VERSION
from supervisord.config.model import Configuration
from supervisord.engine.supervisor import Supervisor


def public_tables(supervisor: Supervisor, configuration: Configuration) -> tuple[Table, ...]:
    """The doors behind the one address. `configuration` is the one that the daemon was started with."""
    limits = configuration.limits
    stall_s = limits.client_stall_s
    jobs = JobsDoor(supervisor, stall_s=stall_s)
    later = Later(supervisor, jobs)
    openai = OpenAIDoor(supervisor, later)
    return (
        openai.table,
        ResponsesDoor(supervisor, supervisor.responses, openai.run, stall_s=stall_s).table,
        AudioDoor(supervisor.gateway).table,
        AnthropicDoor(supervisor.gateway, later).table,
        MessageBatchesDoor(supervisor.batches, stall_s=stall_s).table,
        jobs.table,
        FilesDoor(supervisor.files, limit=limits.upload, stall_s=stall_s).table,
        BatchesDoor(supervisor.batches).table,
        OpenApiDoor(VERSION).table,
    )
