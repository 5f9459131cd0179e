"""One at a time, in order, none lost; and clients that leave, are slow, or wait for too long."""

import asyncio
import json
from pathlib import Path

import aiohttp

from tests.e2e.conftest import Start
from tests.fakes.daemon import Daemon
from tests.fakes.stub import read_log

CHAT = "/v1/chat/completions"


def chat(text: str = "hello", **more: object) -> dict[str, object]:
    return {"model": "stub", "messages": [{"role": "user", "content": text}], **more}


async def queue_depth(daemon: Daemon, depth: int, in_flight: int = 1) -> bool:
    queue = (await daemon.status())["queue"]
    return (queue["depth"], queue["in_flight"]) == (depth, in_flight)


async def accepted(daemon: Daemon, count: int) -> bool:
    return len(await daemon.jobs()) == count


async def submit_in_order(daemon: Daemon, http: aiohttp.ClientSession, bodies: list[dict[str, object]]) -> list[int]:
    """Send each once the one before is queued; the statuses of the answers."""

    async def ask(body: dict[str, object]) -> int:
        async with http.post(daemon.url + CHAT, json=body) as answer:
            await answer.read()
            return answer.status

    async with asyncio.TaskGroup() as group:
        tasks = []
        for number, body in enumerate(bodies):
            tasks.append(group.create_task(ask(body)))
            await daemon.until(lambda n=number + 1: accepted(daemon, n), f"{number + 1} jobs to be accepted")
    return [task.result() for task in tasks]


async def test_twenty_at_once_run_one_at_a_time_in_order(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    log, peak = tmp_path / "requests.jsonl", tmp_path / "peak"
    flags = ("--request-log", str(log), "--max-concurrent-report", str(peak), "--tokens", "2", "--token-rate", "4")
    async with start(*flags) as daemon:
        await daemon.until_phase("ready")
        statuses = await submit_in_order(daemon, http, [chat(f"number {n}") for n in range(20)])
        assert statuses == [200] * 20
        jobs = await daemon.jobs()
        assert [job["status"] for job in jobs] == ["done"] * 20
        started = [job["attempts"][0]["started_at"] for job in jobs]
        assert started == sorted(started), "in the order of arrival"
    assert peak.read_text().split() == ["1"], "never more than one in flight"
    requests = read_log(log)
    assert len(requests) == 20
    assert [r["start"] for r in requests] == sorted(r["start"] for r in requests)


async def test_slots_are_filled_and_never_exceeded(start: Start, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    peak = tmp_path / "peak"
    flags = ("--max-concurrent-report", str(peak), "--tokens", "3", "--token-rate", "20")
    async with start(*flags, slots=3) as daemon:
        await daemon.until_phase("ready")

        async def ask() -> int:
            async with http.post(daemon.url + CHAT, json=chat()) as answer:
                return answer.status

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask()) for _ in range(12)]
        assert [task.result() for task in tasks] == [200] * 12
    assert peak.read_text().split()[-1] == "3"


async def test_high_priority_goes_first(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--prefill-seconds", "3") as daemon:  # long enough for all four to be there
        await daemon.until_phase("ready")
        order: list[str] = []

        async def ask(priority: str) -> None:
            async with http.post(daemon.url + CHAT, json=chat(), headers={"X-Priority": priority}) as answer:
                assert answer.status == 200
            order.append(priority)

        async with asyncio.TaskGroup() as group:
            for count, priority in enumerate(["normal", "batch", "normal", "high"], start=1):
                group.create_task(ask(priority))
                await daemon.until(lambda n=count: accepted(daemon, n), f"{count} to be accepted")
        assert order == ["normal", "high", "normal", "batch"]


async def test_row_25_a_client_that_leaves_frees_its_place(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """While queued, in prefill, and in mid-stream: cancelled upstream at once, slot freed, recorded."""
    log = tmp_path / "requests.jsonl"
    flags = ("--request-log", str(log), "--prefill-seconds", "1", "--tokens", "100", "--token-rate", "20")
    async with start(*flags) as daemon:
        await daemon.until_phase("ready")

        async def leave_after(reached: str) -> None:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(_ask(http, daemon, stream=True))
                await daemon.until(lambda: queue_depth(daemon, 0), "the job to run")
                queued = group.create_task(_ask(http, daemon, stream=False))
                await daemon.until(lambda: queue_depth(daemon, 1), "a job to wait")
                queued.cancel()
                await daemon.until(lambda: queue_depth(daemon, 0), "the job that waited to be gone")
                if reached == "stream":
                    await asyncio.wait_for(first_bytes.get(), 10)
                running.cancel()
                await daemon.until(lambda: queue_depth(daemon, 0, in_flight=0), "the slot to be free", within=2.0)

        first_bytes: asyncio.Queue[bytes] = asyncio.Queue()

        async def _ask(http: aiohttp.ClientSession, daemon: Daemon, *, stream: bool) -> None:
            async with http.post(daemon.url + CHAT, json=chat(stream=stream)) as answer:
                first_bytes.put_nowait(await answer.content.readany())
                await answer.read()

        await leave_after("prefill")
        await leave_after("stream")
        jobs = await daemon.jobs()
        assert [(j["status"], j["reason"]) for j in jobs] == [("cancelled", "client_left")] * 4
        await daemon.until(lambda: _logged(log, 2), "the stub to have seen both being cancelled", within=3.0)
        assert [entry["cancelled"] for entry in read_log(log)] == [True, True]


async def _logged(log: Path, count: int) -> bool:
    return len(read_log(log)) >= count


async def test_row_25_a_load_goes_on_when_its_client_leaves(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--load-seconds", "1", autostart=False) as daemon:

        async def ask() -> None:
            async with http.post(daemon.url + CHAT, json=chat()) as answer:
                await answer.read()

        async with asyncio.TaskGroup() as group:
            first = group.create_task(ask())
            await daemon.until_phase("loading")
            first.cancel()
        backend = await daemon.until_phase("ready")
        assert backend["generation"] == 1


async def test_row_26_a_client_that_stops_reading_is_cut_off(start: Start, http: aiohttp.ClientSession) -> None:
    """Its attempt is cancelled after the limit, the daemon keeps little of its answer, others are served."""
    flags = ("--tokens", "4000", "--chunk-bytes", "8192")
    async with start(*flags, top={"limits": {"client_stall": "1s"}}) as daemon:
        await daemon.until_phase("ready")
        host, port = daemon.address.split(":")
        body = json.dumps(chat(stream=True)).encode()
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {daemon.address}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readline()  # and no more: the kernel's buffers fill up, then the daemon's

        async def slow_client() -> bool:
            return [j["reason"] for j in await daemon.jobs()] == ["slow_client"]

        await daemon.until(slow_client, "the slow client to be cut off", within=10)
        writer.close()
        async with http.post(daemon.url + CHAT, json=chat(max_tokens=1)) as answer:
            assert answer.status == 200


async def test_row_32_queue_full(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--prefill-seconds", "30", top={"queue": {"limit": 1}}) as daemon:
        await daemon.until_phase("ready")

        async def ask() -> None:
            async with http.post(daemon.url + CHAT, json=chat()) as answer:
                await answer.read()

        async with asyncio.TaskGroup() as group:
            running = group.create_task(ask())
            await daemon.until(lambda: queue_depth(daemon, 0), "one to run")
            waiting = group.create_task(ask())
            await daemon.until(lambda: queue_depth(daemon, 1), "one to wait")
            async with http.post(daemon.url + CHAT, json=chat()) as answer:
                assert answer.status == 429
                assert (await answer.json())["error"]["code"] == "queue_full"
                assert 1 <= int(answer.headers["retry-after"]) <= 60
                assert answer.headers["x-queue-depth"] == "1"
                assert answer.headers["x-should-retry"] == "true"
            running.cancel()
            waiting.cancel()
        assert [j["reason"] for j in await daemon.jobs()].count("queue_full") == 1


async def test_row_32_waits_are_bounded(start: Start, http: aiohttp.ClientSession) -> None:
    """The queue's own limit, a deadline that the client asked for, and the patience of its SDK."""
    async with start("--prefill-seconds", "30", top={"queue": {"timeout": "2s"}}) as daemon:
        await daemon.until_phase("ready")

        async def ask(**headers: str) -> tuple[int, str]:
            async with http.post(daemon.url + CHAT, json=chat(), headers=headers) as answer:
                return answer.status, (await answer.json())["error"]["code"]

        async with asyncio.TaskGroup() as group:
            running = group.create_task(ask())
            await daemon.until(lambda: queue_depth(daemon, 0), "one to run")
            late = group.create_task(ask())
            deadline = group.create_task(ask(**{"X-Deadline": "0.5"}))
            impatient = group.create_task(ask(**{"x-stainless-read-timeout": "0.5"}))
            assert await deadline == (504, "deadline_exceeded")
            assert await impatient == (503, "queue_timeout")
            assert await late == (503, "queue_timeout")
            running.cancel()


async def test_every_slot_is_filled_when_a_load_ends(start: Start, http: aiohttp.ClientSession) -> None:
    """Three wait for a backend with three slots that loads: all three run as soon as it is ready."""
    async with start("--load-seconds", "1", "--prefill-seconds", "3", slots=3) as daemon:

        async def ask() -> None:
            async with http.post(daemon.url + CHAT, json=chat()) as answer:
                await answer.read()

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask()) for _ in range(3)]
            await daemon.until(lambda: queue_depth(daemon, 3, in_flight=0), "three to wait for the load")
            await daemon.until_phase("ready")
            await daemon.until(lambda: queue_depth(daemon, 0, in_flight=3), "all three to run", within=1.5)
            for task in asked:
                task.cancel()


async def test_a_retry_is_not_bound_by_a_wait_that_was_over(
    start: Start, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The limit of the queue passed while the first attempt ran: the second one is made all the same."""
    once = ("--once-file", str(tmp_path / "struck"))
    flags = ("--die-before-first-byte", "1", "--prefill-seconds", "2", *once)
    async with start(*flags, top={"queue": {"timeout": "1s"}}) as daemon:
        await daemon.until_phase("ready")
        async with http.post(daemon.url + CHAT, json=chat()) as answer:
            assert answer.status == 200
        assert [job["attempts_count"] for job in await daemon.jobs()] == [2]


async def test_an_operator_cancels_a_job(start: Start, http: aiohttp.ClientSession) -> None:
    async with start("--prefill-seconds", "30") as daemon:
        await daemon.until_phase("ready")

        async def ask() -> tuple[int, str]:
            async with http.post(daemon.url + CHAT, json=chat()) as answer:
                return answer.status, (await answer.json())["error"]["code"]

        async with asyncio.TaskGroup() as group:
            asked = group.create_task(ask())
            await daemon.until(lambda: queue_depth(daemon, 0), "the job to run")
            job = (await daemon.jobs())[0]
            assert (await daemon.control("POST", f"/v1/jobs/{job['id']}/cancel"))["message"] == "cancelled"
        assert asked.result() == (499, "cancelled")
        again = await daemon.control("POST", f"/v1/jobs/{job['id']}/cancel")
        assert again["error"]["code"] == "conflict"
        await daemon.until(lambda: queue_depth(daemon, 0, in_flight=0), "the slot to be free", within=2)
