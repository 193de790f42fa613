"""models.yaml: what is right is read, what is wrong is told with its line and nearest spelling."""

from __future__ import annotations

import contextlib
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.config import Config, ConfigError, Problem, load
from modeltainer.config.document import parse_document
from modeltainer.config.load import find

EXAMPLES = Path(__file__).parents[2] / "config" / "models.yaml"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "dot-config"), "HOME": str(tmp_path)}


def write(folder: Path, text: str) -> Path:
    file = folder / "models.yaml"
    file.write_text(dedent(text))
    return file


def problems(folder: Path, text: str, environ: dict[str, str]) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environ)
    assert str(folder) in str(caught.value)
    return caught.value.problems


MINIMAL = """\
    models:
      tiny: {engine: vllm, source: org/name}
    """


def test_the_shipped_examples_are_right(environ: dict[str, str]) -> None:
    config = load(EXAMPLES, environ)
    assert {model.engine for model in config.models.values()} == {"vllm", "llamacpp"}
    assert config.model_named("qwen") == "qwen2.5-7b"
    generation = config.models["llama3.1-8b"].engine_args["override-generation-config"]
    assert generation == {"temperature": 0.6, "top_p": 0.9}


def test_short_and_long_forms(tmp_path: Path, environ: dict[str, str]) -> None:
    file = write(
        tmp_path,
        """
        models:
          a: {engine: vllm, source: org/name}
          b: {engine: llamacpp, source: /models/b.gguf, context: 0x400}
          c:
            engine: vllm
            source: {hub: org/name, revision: abc}
            resources: {walltime: 90, memory: 24G, gpu_memory: 1T}
        """,
    )
    config = load(file, environ)
    assert config.models["a"].source.hub == "org/name"
    assert config.models["b"].source.path == Path("/models/b.gguf")
    assert config.models["b"].context == 1024
    assert config.models["c"].resources.walltime == 90 * 60  # as Slurm reads a bare number
    assert config.models["c"].resources.memory == 24 * 1024
    assert config.models["c"].resources.gpu_memory == 1024 * 1024


def test_times_stay_text_and_no_is_not_false(tmp_path: Path, environ: dict[str, str]) -> None:
    file = write(
        tmp_path,
        """
        models:
          a:
            engine: vllm
            source: org/name
            resources: {walltime: 4:00:00}
            env: {ANSWER: no, NUMBER: 012}
        """,
    )
    config = load(file, environ)
    assert config.models["a"].resources.walltime == 4 * 3600
    assert config.models["a"].env == {"ANSWER": "no", "NUMBER": "012"}


CASES = [
    ("models:\n  a: {engine: vlm, source: o/n}", 2, "models.a.engine", "'vllm'"),
    ("models:\n  a:\n    engine: vllm\n    sorce: o/n", 4, "models.a.sorce", "'source'"),
    ("models:\n  a: {engine: vllm}", 2, "models.a.source", "missing"),
    (
        "models:\n  a: {engine: vllm, source: o/n,\n    resources: {gpu: 1}}",
        3,
        "models.a.resources.gpu",
        "'gpus'",
    ),
    (
        "models:\n  a: {engine: vllm, source: o/n,\n    resources: {memory: lots}}",
        3,
        "models.a.resources.memory",
        "24GiB",
    ),
    ("models:\n  a: {engine: vllm, source: x.gguf}", 2, "models.a", "llamacpp"),
    (
        "models:\n  a: {engine: vllm, source: o/n, secrets: {HF_TOKEN: hf_123}}",
        2,
        "models.a.secrets.HF_TOKEN",
        "never written",
    ),
    (
        "models:\n  a: {engine: vllm, source: o/n, engine_args: {--port: 1}}",
        2,
        "models.a.engine_args",
        "dashes",
    ),
    (
        "models:\n  a: {engine: vllm, source: o/n, engine_args: {port: 1}}",
        2,
        "models.a",
        "free port",
    ),
    ("site:\n  regsitry: /x\nmodels: {}", 2, "site.regsitry", "'registry'"),
    ("site:\n  ports: 9-3\nmodels: {}", 2, "site.ports", "form"),
    ("gateway:\n  auth: none\n  listen: tcp", 1, "gateway", "unix"),
    ("models:\n  a: {engine: vllm, source: o/n}\n  a: {engine: vllm, source: o/n}", 3, "", "twice"),
    ("models: [", 1, "", "not valid YAML"),
    ("models: !!bool maybe", 1, "", "not valid YAML"),
    ("models: !!timestamp today", 1, "", "not valid YAML"),
    ("modles: {}", 1, "modles", "'models'"),
    ("- a\n", 1, "", "mapping"),
    ("", 1, "", "empty"),
]


@pytest.mark.parametrize(("text", "line", "field", "says"), CASES)
def test_each_fault_has_its_place(  # noqa: PLR0917 (a table of five columns)
    tmp_path: Path, environ: dict[str, str], text: str, line: int, field: str, says: str
) -> None:
    [problem] = problems(tmp_path, text, environ)
    assert problem.line == line
    assert field in problem.field
    assert says in str(problem)


def test_every_fault_is_told_at_once(tmp_path: Path, environ: dict[str, str]) -> None:
    found = problems(
        tmp_path,
        "models:\n  a: {engine: vlm, source: o/n}\n  b: {engin: vllm, source: o/n}\n",
        environ,
    )
    assert [problem.line for problem in found] == [2, 3]


def test_an_alias_bomb_is_refused(tmp_path: Path, environ: dict[str, str]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    [problem] = problems(tmp_path, "\n".join(lines), environ)
    assert "too many values" in problem.message


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(ConfigError):  # any other exception is a fault
        parse_document(text, Path("x.yaml"))


def test_environment_over_user_over_file(tmp_path: Path, environ: dict[str, str]) -> None:
    file = write(
        tmp_path,
        """
        site:
          registry: /from/file
          cache: /from/file
          defaults: {partition: file, account: file}
        models: {}
        """,
    )
    user = tmp_path / "dot-config" / "modeltainer"
    user.mkdir(parents=True)
    (user / "site.yaml").write_text("cache: /from/user\ndefaults: {account: user}\n")
    site = load(file, {**environ, "MODELTAINER_REGISTRY": "/from/env"}).site
    assert (str(site.registry), str(site.cache)) == ("/from/env", "/from/user")
    assert (site.defaults.partition, site.defaults.account) == ("file", "user")


def test_faults_of_the_environment_and_the_users_file_are_told_there(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    file = write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load(file, {**environ, "MODELTAINER_WALLTIME": "soon"})
    assert "$MODELTAINER_WALLTIME" in str(caught.value)
    user = tmp_path / "dot-config" / "modeltainer"
    user.mkdir(parents=True)
    (user / "site.yaml").write_text("\ncash: /x\n")
    with pytest.raises(ConfigError) as caught:
        load(file, environ)
    [problem] = caught.value.problems
    assert problem.file.name == "site.yaml"
    assert problem.line == 2
    assert "'cache'" in str(problem)


def test_no_configuration_says_where_it_was_looked_for(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="MODELTAINER_CONFIG"):
        find(environ)
    (tmp_path / "models.yaml").write_text("models: {}")
    assert find(environ) == Path("models.yaml")


def test_aliases_do_not_clash(tmp_path: Path, environ: dict[str, str]) -> None:
    found = problems(
        tmp_path,
        """
        models:
          a: {engine: vllm, source: o/n, aliases: [x]}
          b: {engine: vllm, source: o/n, aliases: [x]}
        """,
        environ,
    )
    assert "already taken by 'a'" in str(found[0])


def test_the_schema_lets_editors_complete() -> None:
    schema = Config.model_json_schema()
    assert "models" in schema["properties"]
    model = schema["$defs"]["ModelSection"]["properties"]
    assert set(model["engine"]["enum"]) == {"vllm", "llamacpp"}
    assert all("description" in field for name, field in model.items() if name != "source")
