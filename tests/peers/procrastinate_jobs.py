"""Puts jobs into procrastinate's queue and takes them out again, and says how long both took.

usage: python procrastinate_jobs.py CALLERS JOBS      PG* in the environment say where

Prints one line of JSON: seconds of both halves and CPU of this process.
"""

import asyncio
import json
import logging
import resource
import sys
import time

import procrastinate

WARM_UP = 40
PAYLOAD = {"model": "tiny", "messages": [{"role": "user", "content": "what is the time"}]}


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main(callers: int, jobs: int) -> None:
    connector = procrastinate.PsycopgConnector(
        conninfo="", min_size=callers, max_size=callers + 2
    )
    app = procrastinate.App(connector=connector)
    done = 0

    @app.task(name="job")
    async def job(request: dict) -> None:
        nonlocal done
        done += 1

    async def put_in(count: int) -> None:
        # Each caller puts in its share, one after the other, each committed.
        async def caller(number: int) -> None:
            for _ in range(number, count, callers):
                await job.defer_async(request=PAYLOAD)

        await asyncio.gather(*(caller(number) for number in range(callers)))

    async def take_out(count: int) -> None:
        nonlocal done
        done = 0
        await app.run_worker_async(
            wait=False,
            concurrency=callers,
            listen_notify=False,
            install_signal_handlers=False,
        )
        if done != count:
            raise SystemExit(f"{done} of {count} jobs were done")

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        await put_in(WARM_UP)
        await take_out(WARM_UP)

        cpu_before = cpu()
        began = time.perf_counter()
        await put_in(jobs)
        between = time.perf_counter()
        await take_out(jobs)
        ended = time.perf_counter()
        print(
            json.dumps(
                {
                    "put_in_s": between - began,
                    "taken_out_s": ended - between,
                    "cpu_s": cpu() - cpu_before,
                }
            )
        )


logging.disable(logging.CRITICAL)
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
