"""Why an engine died, in words: from its exit code and the last of its log to a :class:`Cause`.

Each entry of :data:`SIGNS` has its section in docs/troubleshooting.md, under its code.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from modeltainer.registry.records import Cause

LOG_LINES = 15


@dataclass(frozen=True)
class Sign:
    """A trace in the log that tells a cause. ``message`` may use the pattern's named groups."""

    code: str
    pattern: re.Pattern[str]
    message: str
    hint: str


def _sign(code: str, pattern: str, message: str, hint: str) -> Sign:
    return Sign(code, re.compile(pattern, re.IGNORECASE), message, hint)


SIGNS: tuple[Sign, ...] = (
    _sign(
        "port-in-use",
        r"address already in use|couldn't bind (?:http server )?(?:socket|to server socket)|"
        r"failed to bind|bind\(\) failed",
        "the port was taken by another process on the node",
        "mt-submit tries other ports by itself; if all fail, widen site.ports",
    ),
    _sign(
        "gated-model",
        r"gated repo|GatedRepoError|access to model .* is restricted|401 client error|"
        r"403 client error",
        "the model's repository does not let this account in",
        "accept the model's terms on its page, then give a token as a secret: "
        "secrets: {HF_TOKEN: {env: HF_TOKEN}}",
    ),
    _sign(
        "no-such-repository",
        r"RepositoryNotFoundError|is not a valid model identifier|is not a local folder and is not",
        "there is no such model repository",
        "check the spelling of source; a private repository also needs HF_TOKEN",
    ),
    _sign(
        "no-such-revision",
        r"RevisionNotFoundError|invalid rev id",
        "the repository has no such revision",
        "check source.revision",
    ),
    _sign(
        "hub-unreachable",
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|name or service not known|"
        r"temporary failure in name resolution|network is unreachable|"
        r"couldn't connect to 'https?://",
        "the compute node cannot reach the model hub",
        "download the model on the login node into a shared folder and give its path as source",
    ),
    _sign(
        "mig-uuid",
        r"invalid literal for int\(\) with base 10: '(?:MIG|GPU)-|"
        r"Model architectures .* failed to be inspected",
        "vLLM could not read the GPU's or slice's UUID in CUDA_VISIBLE_DEVICES",
        "ask the site for ConstrainDevices=yes in cgroup.conf, or use whole GPUs (mig: false)",
    ),
    _sign(
        "unsupported-architecture",
        r"unknown model architecture: '|Model architectures .* are not supported",
        "this version of the engine does not know the model's architecture",
        "use a newer image of the engine, or another engine",
    ),
    _sign(
        "damaged-model",
        r"tensor '[^']+' data is not within the file bounds|model is corrupted or incomplete|"
        r"invalid magic|SafetensorError|failed to read (?:magic|header|key-value)|"
        r"invalid gguf|unexpected end of file|gguf_init_from_file.*fail",
        "the model's file is damaged or cut off",
        "download it again and compare its size or checksum with the source's",
    ),
    _sign(
        "kv-cache-too-small",
        r"larger than the maximum number of tokens that can be stored in KV cache|"
        r"KV cache is needed, which is larger than the available|No available memory for the cache "
        r"blocks",
        "the context does not fit beside the weights in the GPU's memory",
        "lower context, or ask for a larger GPU or slice (resources.gpu_memory)",
    ),
    _sign(
        "out-of-gpu-memory",
        r"CUDA out of memory|torch\.OutOfMemoryError|cudaMalloc failed: out of memory|"
        r"HIP out of memory|ErrorOutOfDeviceMemory|Free memory on device .* less than desired",
        "the GPU's memory is too small for the model",
        "ask for a larger GPU or slice (resources.gpu_memory), a shorter context, or a smaller "
        "quantisation",
    ),
    _sign(
        "out-of-memory",
        r"Cannot allocate memory|std::bad_alloc|\bMemoryError|oom[-_ ]kill|"
        r"failed to allocate (?:buffer|.*memory)|unable to allocate .*buffer",
        "the job's memory is too small for the model",
        "raise resources.memory",
    ),
    _sign(
        "no-compiler",
        r"Failed to find C compiler|No such file or directory: '(?:gcc|cc|nvcc|ninja)'|"
        r"Python\.h: No such file",
        "the engine wants to compile a kernel, and there is no compiler in its environment",
        "use an image with a compiler (the official ones have it), or engine_args: "
        "{enforce-eager: true}",
    ),
    _sign(
        "disk-full",
        r"No space left on device|Disk quota exceeded",
        "a disk or a quota is full",
        "free space in the cache folder (site.cache), or move it",
    ),
    _sign(
        "no-such-command",
        r"executable file not found in \$PATH",
        "the image has no such command",
        "give the engine's full path in the image as command:, or use another image",
    ),
    _sign(
        "bad-bind",
        r"bad bind syntax|destination must be an absolute path|mount source .* doesn't exist|"
        r"unable to add .* to mount list",
        "Apptainer cannot bind one of the folders",
        "check site.binds; each path must exist on the compute node",
    ),
    _sign(
        "no-such-image",
        r"could not open image|FATAL:.*(?:no such file or directory|not found).*\.sif|"
        r"image .* doesn't exist",
        "the image's file is not there, or not an image",
        "run mt-submit pull, or check image: in models.yaml",
    ),
    _sign(
        "no-user-namespaces",
        r"user namespace(?:s)? .*(?:disabled|not (?:enabled|allowed))|"
        r"Failed to create user namespace|"
        r"could not use fakeroot|no setuid installation found",
        "Apptainer may not make user namespaces on the node",
        "ask the site's admins to allow them (user.max_user_namespaces) or to install "
        "apptainer-suid",
    ),
    _sign(
        "no-gpu",
        r"no CUDA-capable device|Found no NVIDIA driver|libcuda\.so\.1: cannot open|"
        r"Failed to infer device type|CUDA driver version is insufficient",
        "the engine found no usable GPU in its job",
        "check that the job asked for one (resources.gpus) and that the node's driver is as new as "
        "the image needs",
    ),
    _sign(
        "bad-option",
        r"(?:unrecognized arguments?|invalid argument|unknown (?:engine )?argument):? "
        r"(?P<what>.+)|argument (?P<arg>--[\w-]+): (?:invalid|expected)",
        "the engine does not know one of its arguments",
        "check engine_args against the engine's --help (mt-submit logs shows the line)",
    ),
    _sign(
        "no-tls-in-engine",
        r"built without SSL support",
        "the engine was built without TLS, which site.engine_tls asks for",
        "use an image whose llama-server has it (Debian's and vLLM do), or "
        "leave site.engine_tls out",
    ),
    _sign(
        "no-such-model-file",
        r"failed to open GGUF file|gguf_init_from_file: failed to open|"
        r"failed to load model.*No such file|error loading model: .*failed to open",
        "the engine cannot open the model's file",
        "check that source is on the shared filesystem; a folder outside needs site.binds to be "
        "seen in the container",
    ),
    _sign(
        "load-failed",
        r"error loading model|failed to load model|exiting due to model loading error",
        "the engine could not load the model",
        "mt-submit logs shows why",
    ),
)

_SIGNALS = {
    signal.SIGKILL: (
        "out-of-memory",
        "the engine was killed outright, most often because the job's memory ran out",
        "raise resources.memory",
    ),
    signal.SIGILL: (
        "illegal-instruction",
        "the engine uses instructions that this node's processor does not have",
        "use an image built for older processors, or other nodes (resources.constraint)",
    ),
}
_NOT_FOUND = 127
MAX_SIGNAL = 64
"""The largest signal number on Linux (signal(7)); a shell tells signal N as 128 + N."""
_EXCEPTION = re.compile(r"(?<![\w.])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): \S.*)")
_ASIDE = re.compile(r"\b(?:DEBUG|INFO|WARN|WARNING)\b|Engine core initialization failed")
"""Lines whose exceptions are not the cause: remarks, and vLLM's word that a process failed."""


def diagnose(exit_code: int, log: str, command: str = "the engine") -> Cause:
    """The cause of an engine's death.

    Args:
        exit_code: as of a shell or of Popen: negative, or above 128, is a signal.
        log: the end of what it printed.
        command: what was started, for messages.
    """
    lines = tuple(line.rstrip() for line in log.splitlines() if line.strip())[-LOG_LINES:]
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number > MAX_SIGNAL:  # an exit code of its own, such as Apptainer's 255
        number = 0
    sign = None if number == signal.SIGKILL else _last_sign(log)
    if sign is not None:
        return Cause(sign.code, sign.message, sign.hint, lines)
    known = next((value for key, value in _SIGNALS.items() if key == number), None)
    if known is not None:
        return Cause(*known, lines)
    if exit_code == _NOT_FOUND or "command not found" in log:
        return no_command(command, lines)
    how = f"signal {number}" if number > 0 else f"exit code {exit_code}"
    error = _last_exception(log)
    message = f"{command} ended with {how}" + (f": {error}" if error else "")
    return Cause("engine-died", message, "mt-submit logs shows why", lines)


def _last_sign(log: str) -> Sign | None:
    """The sign nearest to the end, since what an engine says last is what it died of; but a sign
    that tells only that loading failed yields to one that tells why."""
    found: tuple[int, Sign] | None = None
    general: Sign | None = None
    for sign in SIGNS:
        at = max((match.start() for match in sign.pattern.finditer(log)), default=-1)
        if at >= 0 and sign.code == "load-failed":
            general = sign
        elif at >= 0 and (found is None or at > found[0]):
            found = (at, sign)
    return found[1] if found is not None else general


def _last_exception(log: str) -> str:
    """The exception that a Python engine died of, among the tracebacks of its processes."""
    found = ""
    for line in log.splitlines():
        match = None if _ASIDE.search(line) else _EXCEPTION.search(line)
        if match is not None:
            found = match[1].strip()
    return found[:300]


def no_command(command: str, log: tuple[str, ...] = ()) -> Cause:
    """The engine's, or Apptainer's, command is not on the node."""
    if command in {"apptainer", "singularity"}:
        return Cause(
            "no-apptainer",
            "Apptainer is not on the compute node's PATH",
            "load its module in site.prelude (- module load apptainer), or use runtime: native",
            log,
        )
    return Cause(
        "no-such-command",
        f"{command} is not on the compute node's PATH",
        "give the full path in command:, or load its module in prelude:",
        log,
    )
