"""A batch on a real llama.cpp and a real model, with the official client, through deaths of both."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.test_batches import Json, chat, client_of, ended, progress, read
from tests.e2e.test_batches import begin as begin_batch
from tests.fakes.daemon import Daemon, running

pytestmark = [pytest.mark.e2e, pytest.mark.engine]

LOAD_S = 60.0
TOTAL = 8
PATIENCE_S = 120.0  # for some answers, on a machine that does much else


def question(number: int) -> Json:
    words = f"What is {number} + 1? Answer with the number."
    return chat(f"q{number}", model="gemma", messages=[{"role": "user", "content": words}], temperature=0, max_tokens=3)


async def test_a_batch_is_answered_whole_by_a_real_model_that_dies_twice(tmp_path: Path) -> None:
    """The daemon is killed once, and its server once: each line is answered once, and what was done stays as it was."""
    backend = {"model": "embedded", "context": 2048, "probe_interval": "300ms"}
    daemon = Daemon(tmp_path, {"backends": {"gemma": backend}, "store": {"prompts": "full"}})
    async with running(daemon):
        await daemon.until_phase("ready", "gemma", within=LOAD_S)
        async with client_of(daemon) as client:
            made = await begin_batch(client, *(question(n) for n in range(TOTAL)))
            await progress(daemon, client, made.id, 2, PATIENCE_S)
        await daemon.kill()
        await daemon.start()
        before = {job["id"]: job["attempts_count"] for job in await daemon.jobs() if job["status"] == "done"}
        await daemon.until_phase("ready", "gemma", within=LOAD_S)
        async with client_of(daemon) as client:
            await progress(daemon, client, made.id, 4, PATIENCE_S)
            os.kill((await daemon.backend("gemma"))["pid"], signal.SIGKILL)
            batch = await ended(client, made.id, within=PATIENCE_S)
            assert batch.status == "completed"
            assert batch.error_file_id is None
            lines = await read(client, batch.output_file_id)
        after = {job["id"]: job["attempts_count"] for job in await daemon.jobs()}
        assert {job: after[job] for job in before} == before, "what was done is left alone"
    assert [line["custom_id"] for line in lines] == [f"q{n}" for n in range(TOTAL)]
    bodies = [line["response"]["body"] for line in lines]
    assert all(body["usage"]["completion_tokens"] > 0 for body in bodies)
    told = {body["choices"][0]["message"]["content"] for body in bodies}
    assert len(told) > 1, "each has its own answer"
