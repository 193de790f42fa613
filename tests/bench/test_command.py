"""``mt-submit bench`` as a user runs it, against the scripted engine."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeltainer.bench.record import COLUMNS, read_jsonl
from tests.bench.engine import serving
from tests.bench.shell import KEY, QUICK, bench, command, environ, summary


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ttft=0.05, gap=0.01, tokens=1000, key=KEY) as made:
        yield made


def test_sweep_with_report(url: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    folder = tmp_path / "run"
    done = bench(
        *("plain", "--url", url, "--concurrency", "1,2,4", "--requests", "16"),
        *("--prompt-tokens", "64", "--output-tokens", "8", "--slo", "ttft=1s", "--report"),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "concurrency=4" in done.stdout
    assert {"STEADY", "TOKENS"} <= set(done.stdout.splitlines()[0].split())
    assert "usage_each_event" in done.stdout
    assert "Warning" not in done.stderr
    found = summary(folder)
    assert [point["concurrency"] for point in found["points"]] == [1, 2, 4]
    assert all(point["floor"]["ttft_s"] < 0.05 for point in found["points"])
    assert KEY not in (folder / "summary.json").read_text()
    assert found["workload"]["exact_prompt_tokens"]
    rows = read_jsonl(folder / "requests.jsonl")
    assert len([row for row in rows if not row.warmup]) == 3 * 16
    assert {row.output_tokens for row in rows} == {8}
    head, *lines = (folder / "requests.csv").read_text().splitlines()
    assert head == ",".join(COLUMNS)
    assert len(lines) == len(rows)
    page = (folder / "report.html").read_text()
    assert "<td>usage_each_event</td>" in page
    for name in ("throughput-latency", "percentiles", "cumulative", "in-flight"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f'alt="{name}"' in page
    shown = re.sub(r'src="data:image/png;base64,[^"]*"', "", page.partition("<pre>")[0])
    assert not re.search(r"<(script|link|iframe)|src=|@import|url\(", shown)  # nothing is fetched


def test_pairs_of_two_models(url: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    words = ("plain", "--against", "pings", "--url", url, "--concurrency", "2", "--requests", "12")
    done = bench(*words, *QUICK, "--report", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "TTFT of b - a, median of 12 pairs" in done.stdout
    assert (folder / "differences.png").exists()
    [point] = summary(folder)["points"]
    assert point["targets"]["b"]["model"] == "pings"
    assert abs(point["paired"]["ttft_s"]["median"]) < 0.04


def test_search_for_the_highest_rate(tmp_path: Path) -> None:
    # So slow that a busy machine's client is not called the bottleneck: its limit is 5 % of a TTFT.
    with serving(ttft=0.4, gap=0.001, tokens=2, slots=1) as url:
        done = bench(
            *("queues", "--url", url, "--slo", "ttft=1s", "--duration", "2s", *QUICK),
            *("--arrivals", "constant"),
            folder=tmp_path / "search",
        )
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path / "search")
    assert 1.4 <= found["limit_rate"] <= 4  # it carries about 2.5 a second
    assert found["limit_note"] in done.stderr
    assert f"{found['limit_rate']:g} requests/s" in done.stderr


@pytest.mark.parametrize(
    ("words", "refused", "short"),
    [
        (("no-ignore-eos",), True, True),
        (("plain",), False, True),
        (("plain", "--no-ignore-eos"), False, False),
        (("plain", "--output-tokens", "3"), False, False),
    ],
)
def test_answers_shorter_than_asked_for_are_told(
    tmp_path: Path, words: tuple[str, ...], refused: bool, short: bool
) -> None:
    with serving(ttft=0.01, gap=0.001, tokens=3) as url:  # however many it is asked for
        load = ("--concurrency", "1", "--requests", "4", *QUICK)
        done = bench(words[0], "--url", url, *load, *words[1:], folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (done.stderr.count("refuses ignore_eos: answers may end before") == 1) is refused
    found = summary(tmp_path / "run")
    assert found["workload"]["ignore_eos_refused"] is refused
    [point] = found["points"]
    assert ("have 3.0 tokens on average of the 4.0 asked for" in done.stderr) is short
    assert len(point["warnings"]) == short
    assert not any("tokens on average" in one for one in point["problems"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("plain", "--url", "http://127.0.0.1:1"), 8, "does not answer"),
        (("plain", "--url", "unix:/nowhere.sock"), 8, "does not answer"),
        (("plian", "--url", "{url}"), 9, "has no model 'plian'"),
        (("plain", "--url", "{url}", "--key", "wrong"), 1, "refuses the key"),
        (("plain", "--url", "https://x"), 2, "only http://"),
        (("plain", "--url", "{url}", "--concurrency", "0"), 2, "not a whole number"),
        (("plain", "--url", "{url}", "--rate", "fast"), 2, "requests per second"),
        (("plain", "--url", "{url}", "--slo", "speed=1s"), 2, "ttft, tpot and e2e"),
        (("plain", "--url", "{url}", "--rate", "1", "--concurrency", "1"), 2, "exclude"),
        (("plain", "--url", "{url}", "--body", "[1]"), 2, "JSON object"),
        (("plain", "--url", "{url}", "--trace", __file__, "--requests", "3"), 2, "--trace says"),
        (("plain", "--url", "{url}", "--trace", __file__, "--duration", "3s"), 2, "--trace says"),
        (("truncated", "--url", "{url}", "--against", "x", "--rate", "1"), 2, "in pairs"),
        (("report", "{folder}"), 1, "has no run"),
    ],
)
def test_bad_input(url: str, tmp_path: Path, words: tuple[str, ...], code: int, says: str) -> None:
    made = [word.format(url=url, folder=tmp_path) for word in words]
    output = Path() if made[0] == "report" else tmp_path / "run"
    done = bench(*made, folder=output)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_old_run_is_not_overwritten(url: str, tmp_path: Path) -> None:
    words = ("plain", "--url", url, "--concurrency", "1", "--requests", "2", *QUICK)
    assert bench(*words, folder=tmp_path).returncode == 0
    before = (tmp_path / "summary.json").read_bytes()
    again = bench(*words, folder=tmp_path)
    assert again.returncode == 1
    assert "holds a run already" in again.stderr
    assert (tmp_path / "summary.json").read_bytes() == before


def test_ctrl_c_keeps_what_there_is(url: str, tmp_path: Path) -> None:
    words = ("plain", "--url", url, "--concurrency", "2", "--requests", "100000", *QUICK)
    process = subprocess.Popen(
        command(*words, folder=tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ(),
    )
    rows = tmp_path / "requests.jsonl"
    while not (rows.exists() and rows.read_bytes().count(b"\n") > 10):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said[1]
    found = summary(tmp_path)
    assert found["ended_early"] == "interrupted"
    assert not found["points"][0]["valid"]
    assert len(read_jsonl(rows)) > 10
    assert "interrupted" in {row.failure for row in read_jsonl(rows)}


def test_a_server_that_dies_leaves_a_marked_run(tmp_path: Path) -> None:
    with serving(ttft=0.01, gap=0.001, tokens=4, die_after=60) as url:
        words = ("plain", "--url", url, "--concurrency", "1,4", "--requests", "40")
        done = bench(*words, *QUICK, folder=tmp_path)
    assert done.returncode == 1
    assert "the server is gone" in done.stderr
    found = summary(tmp_path)
    assert found["ended_early"] == "server_died"
    assert [point["ended_early"] for point in found["points"]] == ["", "server_died"]
    assert found["points"][0]["targets"]["a"]["failed"] == 0
    assert found["points"][1]["targets"]["a"]["uncut"]["goodput"]["fraction"] < 1


def test_full_disk(url: str, tmp_path: Path) -> None:
    """A limit on file size stands for a disk that is full."""
    words = command(
        *("plain", "--url", url, "--concurrency", "4", "--requests", "4000", *QUICK),
        folder=tmp_path,
    )
    script = "trap '' XFSZ; ulimit -f 20; exec \"$@\""
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**environ(), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr
    assert "hint:" in done.stderr
    assert len(read_jsonl(tmp_path / "requests.jsonl")) > 5
    found = summary(tmp_path)
    assert (found["ended_early"], found["points"]) == ("unfinished", [])
    assert found["servers"][0]["model"] == "plain"


def test_calibration_says_how_far_off_it_is(tmp_path: Path) -> None:
    done = bench("calibrate", "--concurrency", "1,8", "--gap", "50ms", folder=Path())
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["STREAMS", "1", "8"]


def test_the_script_is_the_command() -> None:
    script = Path(__file__).parents[2] / "tools" / "bench.py"
    done = subprocess.run(
        [sys.executable, str(script), "run", "--help"], capture_output=True, text=True, check=True
    )
    assert "--concurrency" in done.stdout
