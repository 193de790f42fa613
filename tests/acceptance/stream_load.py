"""A steady load of streams on the login node; prints what became of each as JSON at the end.

Arguments: base URL, key, model, seconds, workers, and how long a long stream should take (seconds;
each teaches how many tokens the next one needs for that). SIGTERM ends it early: no new stream
begins.
"""

import asyncio
import json
import signal
import sys
import time

import httpx

MAX_TOKENS = 7000


async def whole(client: httpx.AsyncClient, model: str) -> dict[str, object]:
    """One completion in one piece, of which nothing has begun until it is there."""
    began = time.monotonic()
    body = {"model": model, "prompt": "whole", "max_tokens": 8, "ignore_eos": True}
    found: dict[str, object] = {"at": began, "tokens": 8, "events": 0}
    try:
        answer = await client.post("/completions", json=body)
        found |= {"status": answer.status_code, "done": answer.status_code == 200}
        if answer.status_code == 200:
            found["finish"] = answer.json()["choices"][0]["finish_reason"]
        else:
            found["error"] = answer.text[:300]
    except httpx.HTTPError as error:
        found |= {"done": False, "error": f"{type(error).__name__}: {error}"}
    found["seconds"] = time.monotonic() - began
    return found


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
        "began_unix": time.time(),
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
    url, key, model, seconds, workers, long_s = sys.argv[1:]
    results: list[dict[str, object]] = []
    most = 64
    enough = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, enough.set)

    def fitting(tokens: int, took_s: float) -> int:
        # By steps: what was fast while it was alone is slow among others.
        return min(MAX_TOKENS, 2 * tokens, max(16, int(tokens * float(long_s) / took_s)))

    async def work(number: int) -> None:
        nonlocal most
        count = number
        while time.monotonic() < end and not enough.is_set():
            if count % 3 == 1:
                results.append(await whole(client, model))
            else:
                tokens = most if count % 3 == 0 else 8
                results.append(one := await stream(client, model, tokens))
                if tokens == most and one["done"]:
                    most = fitting(tokens, float(str(one["seconds"])))
            count += 1
            await asyncio.sleep(0.1)

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        trial = await stream(client, model, most)
        alone = int(most * float(long_s) / float(str(trial["seconds"])))
        most = min(MAX_TOKENS, max(16, alone // (2 * int(workers))))
        end = time.monotonic() + float(seconds)
        await asyncio.gather(*(work(number) for number in range(int(workers))))
    bad = [one for one in results if not (one["done"] and one["finish"] == "length")]
    print(
        json.dumps(
            {
                "requests": len(results),
                "bad": bad,
                "streams": [one for one in results if "began_unix" in one],
            }
        )
    )


asyncio.run(main())
