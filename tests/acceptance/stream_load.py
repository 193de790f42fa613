"""A steady load of streams on the login node; prints what became of each as JSON at the end.

Arguments: base URL, key, model, seconds, workers, and how long a long stream takes when it is alone
(seconds; the number of its tokens is found by trying). SIGTERM ends it early: no new stream begins.
"""

import asyncio
import json
import signal
import sys
import time

import httpx


async def stream(client: httpx.AsyncClient, model: str, tokens: int) -> dict[str, object]:
    """One streamed completion: how it ended, how long it took, who answered."""
    began = time.monotonic()
    body = {
        "model": model,
        "prompt": f"{tokens}",
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
    }
    found: dict[str, object] = {
        "at": began,
        "tokens": tokens,
        "finish": None,
        "done": False,
        "events": 0,
    }
    try:
        async with client.stream("POST", "/completions", json=body) as answer:
            found["status"] = answer.status_code
            if answer.status_code != 200:
                found["error"] = (await answer.aread()).decode()[:300]
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    found["done"] = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    found["error"] = event["error"]
                for choice in event.get("choices", []):
                    found["events"] = int(str(found["events"])) + 1
                    found["finish"] = choice.get("finish_reason") or found["finish"]
    except httpx.HTTPError as error:
        found["error"] = f"{type(error).__name__}: {error}"
    found["seconds"] = time.monotonic() - began
    return found


async def main() -> None:
    url, key, model, seconds, workers, alone_s = sys.argv[1:]
    results: list[dict[str, object]] = []
    enough = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, enough.set)

    async def work(number: int) -> None:
        count = number
        while time.monotonic() < end and not enough.is_set():
            tokens = most if count % 3 == 0 else 8
            results.append(await stream(client, model, tokens))
            count += 1
            await asyncio.sleep(0.1)

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        trial = await stream(client, model, 64)
        most = min(1500, max(16, int(64 * float(alone_s) / float(str(trial["seconds"])))))
        end = time.monotonic() + float(seconds)
        await asyncio.gather(*(work(number) for number in range(int(workers))))
    bad = [one for one in results if not (one["done"] and one["finish"] == "length")]
    print(
        json.dumps(
            {
                "requests": len(results),
                "bad": bad,
                "longest_s": max(float(str(one["seconds"])) for one in results),
                "long": sum(float(str(one["seconds"])) > 5 for one in results),
            }
        )
    )


asyncio.run(main())
