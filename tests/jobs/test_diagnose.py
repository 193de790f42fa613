"""Engines' own last words, as seen in the wild, become a cause with something to do."""

from __future__ import annotations

import pytest

from modeltainer.jobs.diagnose import LOG_LINES, SIGNS, diagnose

LAST_WORDS = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out-of-gpu-memory"),
    ("ggml_backend_cuda_buffer_type_alloc: cudaMalloc failed: out of memory", "out-of-gpu-memory"),
    (
        "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens "
        "that can be stored in KV cache (44064).",
        "kv-cache-too-small",
    ),
    (
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. Access to model "
        "meta-llama/Llama-3.1-8B is restricted.",
        "gated-model",
    ),
    ("OSError: foo/bar is not a local folder and is not a valid model identifier", "no-such-repo"),
    ("ValueError: invalid literal for int() with base 10: 'MIG-5f0a'", "mig-uuid"),
    ("RuntimeError: Failed to find C compiler. Please specify via CC", "no-compiler"),
    ("OSError: [Errno 98] Address already in use", "port-in-use"),
    ("srv start: couldn't bind HTTP server socket, hostname: 0.0.0.0, port: 8080", "port-in-use"),
    (
        "llama_model_load: error loading model: tensor 'blk.1.ffn_up.weight' data is not within "
        "the file bounds, model is corrupted or incomplete",
        "damaged-model",
    ),
    ("error loading model: unknown model architecture: 'newthing'", "unsupported-architecture"),
    ("error: invalid argument: --no-such-thing", "bad-option"),
    ("vllm serve: error: unrecognized arguments: --no-such-thing", "bad-option"),
    ("FATAL:   could not open image /shared/x.sif: no such file or directory", "no-such-image"),
    ("OSError: [Errno 28] No space left on device", "disk-full"),
    ("RuntimeError: Failed to infer device type", "no-gpu"),
]


@pytest.mark.parametrize(("line", "code"), LAST_WORDS)
def test_known_last_words(line: str, code: str) -> None:
    cause = diagnose(1, f"starting\n{line}\n")
    assert cause.code.startswith(code)
    assert cause.hint
    assert cause.log[-1] == line
    assert cause.failed


def test_signals_are_told_from_exit_codes() -> None:
    assert diagnose(-9, "").code == "out-of-memory"
    assert diagnose(137, "").code == "out-of-memory"
    assert diagnose(-4, "").code == "illegal-instruction"
    assert "signal 11" in diagnose(-11, "").message
    assert "exit code 3" in diagnose(3, "").message


def test_an_exit_code_of_its_own_is_no_signal() -> None:
    assert "exit code 255" in diagnose(255, "FATAL: something", "apptainer").message
    missing = 'FATAL: "llama-server": executable file not found in $PATH'
    assert diagnose(255, missing, "apptainer").code == "no-such-command"


def test_words_of_a_request_in_the_log_are_not_the_cause() -> None:
    log = "request: explain 'address already in use'\n"
    assert diagnose(137, log).code == "out-of-memory"
    both = f"{log}403 client error in a prompt\nCUDA out of memory\n"
    assert diagnose(1, both).code == "out-of-gpu-memory"


def test_a_missing_command_names_what_is_missing() -> None:
    assert diagnose(127, "", "apptainer").code == "no-apptainer"
    assert "llama-server" in diagnose(127, "", "llama-server").message


def test_the_exception_that_mattered_is_named() -> None:
    log = """\
(APIServer pid=97) WARNING [system_utils.py:255] limits can cause `OSError: [Errno 24] Too many`
(Worker pid=130) ERROR 11-24 04:21:27 [multiproc_executor.py:953] Traceback (most recent call last):
(Worker pid=130) ERROR 11-24 04:21:27 [multiproc_executor.py:953] FileNotFoundError: No such file
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
    message = diagnose(1, log, "vllm").message
    assert message == "vllm ended with exit code 1: FileNotFoundError: No such file"


def test_only_the_end_of_the_log_is_kept() -> None:
    cause = diagnose(1, "\n".join(f"line {number}" for number in range(1000)))
    assert cause.log == tuple(f"line {number}" for number in range(1000 - LOG_LINES, 1000))


def test_every_sign_says_what_to_do() -> None:
    assert all(sign.hint and sign.message for sign in SIGNS)
