"""From the configuration to what the engine and the doors need."""

from supervisord.config.model import Configuration, PromptStorage
from supervisord.core.job import Priority
from supervisord.core.queue import QueuePolicy
from supervisord.engine.gateway import GatewayPolicy
from supervisord.engine.pools import HostShare
from supervisord.engine.relay import RelayPolicy
from supervisord.engine.sampler import MemoryLimits
from supervisord.engine.settings import Settings
from supervisord.engine.tries import TriesPolicy
from supervisord.engine.work.backlog import BacklogPolicy


def engine_settings(configuration: Configuration) -> Settings:
    """The engine's settings; nothing is decided here."""
    full = configuration.store.prompts is PromptStorage.FULL
    return Settings(
        backends=configuration.backends,
        routes=configuration.routes,
        default_route=configuration.default_route,
        placement=configuration.memory.placement,
        queue=QueuePolicy(
            limit=configuration.queue.limit,
            handicap_s={
                Priority.HIGH: 0.0,
                Priority.NORMAL: configuration.queue.aging_normal_s,
                Priority.BATCH: configuration.queue.aging_batch_s,
            },
        ),
        backlog=BacklogPolicy(configuration.queue.backlog),
        memory=MemoryLimits(
            vram=configuration.memory.vram,
            host=configuration.memory.host,
            host_share=HostShare(configuration.memory.host_reserve, configuration.memory.host_limit),
        ),
        gateway=GatewayPolicy(
            keep_prompts=full,
            keep_clients=configuration.store.prompts is not PromptStorage.NONE,
            tries=TriesPolicy(
                queue_timeout_s=configuration.queue.timeout_s,
                relay=RelayPolicy(client_stall_s=configuration.limits.client_stall_s, keep_output=full),
            ),
        ),
        drain_s=configuration.drain_timeout,
    )
