"""Each kind of load through the command: what the engine was asked, when, and the rows of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from modeltainer.bench.record import Record, read_jsonl
from tests.bench.engine import serving
from tests.bench.shell import KEY, QUICK, bench, summary

SHARE = [
    {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "So."}]}
    for text in ("Why is the sky blue?", "What is a quark?", "Who was Ada?")
]
QUESTIONS = [one["conversations"][0]["value"] for one in SHARE]
TRACE = [(7000, 40, 3), (7200, 60, 5), (7800, 80, 7), (8000, 40, 2)]
"""Timestamp in ms, tokens of prompt and answer."""


class Asked:
    """What an engine has been asked during the measurement."""

    def __init__(self, file: Path, rows: list[Record]) -> None:
        every = [json.loads(line) for line in file.read_text().splitlines()]
        # The questions before the load, and the warm-up, come first.
        self.requests = sorted(every, key=lambda one: float(one["arrived"]))[-len(rows) :]
        self.bodies = [one["asked"] for one in self.requests]
        self.rows = sorted(rows, key=lambda row: row.intended_s)

    @property
    def paths(self) -> set[str]:
        return {one["path"] for one in self.requests}

    @property
    def starts_s(self) -> list[float]:
        first = float(self.requests[0]["arrived"])
        return [float(one["arrived"]) - first for one in self.requests]

    @property
    def prompts(self) -> list[str]:
        return [
            str(body["prompt"] if "prompt" in body else body["messages"][0]["content"])
            for body in self.bodies
        ]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "share.json").write_text(json.dumps(SHARE))
    lines = [
        json.dumps({"timestamp": at, "input_length": prompt, "output_length": output})
        for at, prompt, output in TRACE
    ]
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    record = str(tmp_path / "asked.jsonl")
    with serving(ttft=0.02, gap=0.005, tokens=1000, key=KEY, record=record) as url:
        yield url


def near(seen: list[float], wanted: list[float]) -> bool:
    return all(abs(a - b) < 0.5 for a, b in zip(seen, wanted, strict=True))


def trace(asked: Asked, speed: float = 1.0) -> None:
    wanted = [(at - TRACE[0][0]) / 1000 / speed for at, _, _ in TRACE]
    assert [row.intended_s for row in asked.rows] == pytest.approx(wanted, abs=0.001)
    assert near(asked.starts_s, wanted)
    assert [body["max_tokens"] for body in asked.bodies] == [output for _, _, output in TRACE]
    assert [row.output_tokens for row in asked.rows] == [output for _, _, output in TRACE]
    assert [row.prompt_tokens for row in asked.rows] == [prompt for _, prompt, _ in TRACE]


def sped_up(asked: Asked) -> None:
    trace(asked, 4.0)


def prompts(asked: Asked) -> None:
    own, _, texts = zip(*(text.partition("\n") for text in asked.prompts), strict=True)
    assert list(texts) == [*QUESTIONS, *QUESTIONS]
    assert len(set(own)) == 6  # words of its own before each, for a prefix cache knows the rest


def same_prompts(asked: Asked) -> None:
    assert asked.prompts == [*QUESTIONS, *QUESTIONS]


def prefix(asked: Asked) -> None:
    words = [text.split() for text in asked.prompts]
    assert {tuple(one[:40]) for one in words} == {tuple(words[0][:40])}
    assert len({tuple(one[40:48]) for one in words}) == 6
    assert {row.prompt_tokens for row in asked.rows} == {60}


def constant(asked: Asked) -> None:
    assert near(asked.starts_s, [number / 10 for number in range(12)])
    assert [row.intended_s for row in asked.rows] == pytest.approx([n / 10 for n in range(12)])


def poisson(asked: Asked) -> None:
    planned = [row.intended_s for row in asked.rows]
    gaps = [b - a for a, b in pairwise(planned)]
    assert max(gaps) > 3 * min(gaps)
    assert near(asked.starts_s, [start - planned[0] for start in planned])


def in_order(asked: Asked) -> None:
    assert all(a.ended_s <= b.sent_s for a, b in pairwise(asked.rows))
    assert {body["stream"] for body in asked.bodies} == {True}


def completions(asked: Asked) -> None:
    in_order(asked)
    assert all("messages" not in body for body in asked.bodies)
    assert {row.token_source for row in asked.rows} == {"usage_each_event"}
    assert {row.chunks for row in asked.rows} == {4}
    assert all(row.first_token_s is not None and row.streamed for row in asked.rows)


def unstreamed(asked: Asked) -> None:
    assert all("stream" not in body for body in asked.bodies)
    assert {(row.streamed, row.token_source) for row in asked.rows} == {(False, "usage")}
    assert all(row.last_token_s is not None for row in asked.rows)


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


ONE, TWO, RATE = ("--concurrency", "1"), ("--concurrency", "2"), ("--rate", "10", "--arrivals")
FROM_FILE = ("--prompts", "{files}/share.json")
WORDS = ("--api", "completions")


@pytest.mark.parametrize(
    ("words", "expected", "check"),
    [
        (("--trace", "{files}/trace.jsonl"), ("trace", 4, CHAT), trace),
        (("--trace", "{files}/trace.jsonl", "--speed", "4"), ("trace", 4, CHAT), sped_up),
        ((*FROM_FILE, *ONE), ("concurrency=1", 6, CHAT), prompts),
        ((*FROM_FILE, "--no-nonce", *ONE), ("concurrency=1", 6, CHAT), same_prompts),
        (
            ("--shared-prefix", "40", "--prompt-tokens", "60", *TWO),
            ("concurrency=2", 6, CHAT),
            prefix,
        ),
        ((*RATE, "constant"), ("rate=10", 12, CHAT), constant),
        ((*RATE, "poisson"), ("rate=10", 12, CHAT), poisson),
        (ONE, ("concurrency=1", 6, CHAT), in_order),
        ((*WORDS, *ONE), ("concurrency=1", 6, TEXT), completions),
        ((*WORDS, "--no-stream", *ONE), ("concurrency=1", 6, TEXT), unstreamed),
        (("--no-stream", *ONE), ("concurrency=1", 6, CHAT), unstreamed),
    ],
)
def test_a_load_arrives_as_it_was_asked_for(
    engine: str,
    files: Path,
    words: tuple[str, ...],
    expected: tuple[str, int, str],
    check: Callable[[Asked], None],
) -> None:
    label, count, path = expected
    made = [word.format(files=files) for word in words]
    given = () if "--trace" in made else ("--requests", str(count))
    done = bench("plain", "--url", engine, *given, *QUICK, *made, folder=files / "run")
    assert done.returncode == 0, done.stderr
    rows = [one for one in read_jsonl(files / "run" / "requests.jsonl") if not one.warmup]
    assert {(row.point, row.failure, row.status) for row in rows} == {(label, "", 200)}
    assert sorted(row.index for row in rows) == list(range(count))
    if label != "trace":
        assert {row.output_tokens for row in rows} == {4}
    asked = Asked(files / "asked.jsonl", rows)
    assert asked.paths == {path}
    check(asked)
    [point] = summary(files / "run")["points"]
    assert point["targets"]["a"]["requests_measured"] == count
    assert point["targets"]["a"]["failed"] == 0


@pytest.mark.parametrize("own_key", [True, False])
def test_two_servers_in_pairs_each_with_its_own_key(
    engine: str, tmp_path: Path, own_key: bool
) -> None:
    other = tmp_path / "other.jsonl"
    key = "other" if own_key else ""
    with serving(ttft=0.1, gap=0.005, tokens=1000, key=key, record=str(other)) as url:
        given = ("--against-key", key) if own_key else ()
        done = bench(
            *("plain", "--url", engine, "--against-url", url, "--concurrency", "1"),
            *("--requests", "8", *given, *QUICK),
            folder=tmp_path / "run",
        )
    assert done.returncode == 0, done.stderr
    rows = [one for one in read_jsonl(tmp_path / "run" / "requests.jsonl") if not one.warmup]
    sides = {name: [row for row in rows if row.target == name] for name in "ab"}
    asked = [Asked(tmp_path / "asked.jsonl", sides["a"]), Asked(other, sides["b"])]
    assert len(sides["a"]) == len(sides["b"]) == 8
    for one, two in zip(asked[0].prompts, asked[1].prompts, strict=True):
        # Of equal length, but nothing for a prefix cache that the first of a pair has filled.
        assert sorted(one.split()) == sorted(two.split())
        assert one.split()[1:9] != two.split()[1:9]
    assert [row.prompt_tokens for row in asked[0].rows] == [16] * 8
    assert [row.prompt_tokens for row in asked[1].rows] == [16] * 8
    assert KEY in asked[0].requests[0]["head"]
    assert KEY not in other.read_text()  # whoever runs the other server learns no key of the first
    found = summary(tmp_path / "run")
    assert [one["url"] for one in found["servers"]] == [engine, url]
    difference: Any = found["points"][0]["paired"]["ttft_s"]
    assert difference["count"] == 8
    assert difference["median"] == pytest.approx(0.08, abs=0.04)
