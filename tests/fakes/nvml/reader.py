"""A program that reads the GPUs when told to. One line in, one line of JSON out; ends with its standard input.

    reader.py DEADLINE RETRY ROOT

`read` answers a reading with how long it took and how often the loop ticked meanwhile; `race N` answers N readings
asked for at once; `close` closes the sensor.
"""

import asyncio
import dataclasses
import json
import sys
import time
from pathlib import Path

from supervisord.adapters.nvml import NvmlSensor
from supervisord.core.memory import GpuReading


class Ticker:
    """Counts the turns of the loop, a millisecond apart: a loop that is blocked does not count."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.count += 1


async def answer(sensor: NvmlSensor, ticker: Ticker, command: list[str]) -> object:
    match command:
        case ["close"]:
            sensor.close()
            return {}
        case ["race", count]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(sensor.gpus()) for _ in range(int(count))]
            return [dataclasses.asdict(task.result()) for task in tasks]
        case _:
            began, ticks = time.monotonic(), ticker.count
            reading: GpuReading = await sensor.gpus()
            now = time.monotonic()
            told = dataclasses.asdict(reading)
            return told | {"took": now - began, "now": now, "ticks": ticker.count - ticks}


async def main() -> None:
    sensor = NvmlSensor(float(sys.argv[1]), retry_s=float(sys.argv[2]), root=Path(sys.argv[3]))
    ticker = Ticker()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(ticker.run())
        while line := await commands.readline():
            sys.stdout.write(json.dumps(await answer(sensor, ticker, line.decode().split())) + "\n")
            sys.stdout.flush()
        ticking.cancel()
    sensor.close()


if __name__ == "__main__":
    asyncio.run(main())
