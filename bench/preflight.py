"""Before any load: is the server there, does it know the model and the key, what does it take?"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modeltainer.bench import provenance
from modeltainer.bench.client import Target
from modeltainer.bench.sizing import measure_sizer
from modeltainer.bench.workload import PATHS, Length, Sizer, Workload
from modeltainer.registry.launches import NONCE

if TYPE_CHECKING:
    import httpx

    from modeltainer.registry.layout import Layout

_TIMEOUT_S = 120.0
_LISTED = 8
_ENDPOINT_FACTS = ("launch_id", "endpoint", "node", "gres", "engine", "state")


class PreflightError(Exception):
    """The load would measure nothing.

    ``kind`` is ``unreachable``, ``key``, ``model`` or ``refused``.
    """

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.kind, self.message, self.hint = kind, message, hint


@dataclass(frozen=True)
class Server:
    """What a server says of itself."""

    facts: dict[str, Any] = field(default_factory=dict)
    """For the provenance: version, properties, the model's entry in its list; of engines of this
    user's own also their launches."""


def check(to: Target, registry: Layout | None = None) -> Server:
    """Ask for the models, and whatever else it tells.

    Args:
        registry: this user's own, which knows how the engines in it were started.

    Raises:
        PreflightError: not reachable, wrong key, no such model, or the model is not up.
    """
    import httpx

    with _client(to) as client:
        try:
            answer = client.get("/v1/models", timeout=10.0)
        except httpx.TransportError as error:
            raise PreflightError(
                "unreachable",
                f"{to.name} does not answer: {error}",
                "mt-submit gateway status shows your gateway; --url names another server",
            ) from error
        if answer.status_code in {401, 403}:
            raise PreflightError(
                "key",
                f"{to.name} refuses the key",
                "give one with --key or MODELTAINER_KEY; mt-submit key create makes one",
            )
        facts: dict[str, Any] = {"server": answer.headers.get("server")}
        with contextlib.suppress(ValueError, TypeError, KeyError):
            listed = {one["id"]: one for one in answer.json()["data"]}
            facts["listed"] = _known(to, listed)
        for path in ("/version", "/props"):
            with contextlib.suppress(httpx.HTTPError, ValueError):
                said = client.get(path, timeout=5.0)
                if said.status_code == 200:
                    facts[path.strip("/")] = _short(said.json())
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError, TypeError):
            status = client.get("/admin/status", timeout=5.0)
            if status.status_code == 200:
                model = facts.get("listed", {}).get("alias_of") or to.model
                facts["endpoints"] = [
                    {name: one.get(name) for name in _ENDPOINT_FACTS}
                    for one in status.json()["endpoints"]
                    if one["model"] == model
                ]
        if registry is not None:
            named = [one["launch_id"] for one in facts.get("endpoints", ())]
            own = provenance.launches(registry, to.name, named)
            facts |= {"launches": own} if own else {}
        return Server(_told(facts))


def _known(to: Target, listed: dict[str, Any]) -> Any:
    entry = listed.get(to.model)
    if entry is None:
        names = ", ".join(sorted(listed)[:_LISTED]) or "none"
        raise PreflightError("model", f"{to.name} has no model {to.model!r}", f"it has: {names}")
    state = entry.get("state", "ready")  # only a gateway says one
    if state == "not-ready":
        raise PreflightError(
            "model",
            f"{to.model} is not up",
            f"start it with: mt-submit up {to.model} --wait",
        )
    if isinstance(state, str) and state != "ready":
        raise PreflightError(
            "model",
            f"{to.model} is not up yet, or not any more: it is {state}",
            "mt-submit ls shows how far it is; mt-submit up MODEL --wait returns when it answers",
        )
    return entry


def _told(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _told(value) for name, value in document.items()}
    if isinstance(document, list):
        return [_told(one) for one in document if not _is_nonce(one)]
    return None if _is_nonce(document) else document


def _is_nonce(value: Any) -> bool:
    """The second name of a launch, which is a secret, and which an engine lists among its own."""
    return isinstance(value, str) and value.startswith(NONCE)


def _short(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    plain = (str, int, float, bool)
    return {
        name: value
        for name, value in document.items()
        if isinstance(value, plain) and len(str(value)) <= 200
    }


def adapt(to: Target, workload: Workload) -> Workload:
    """The workload without the optional fields that this server refuses.

    Raises:
        PreflightError: it refuses the plain request too, or cannot be reached.
    """
    tried = [
        workload,
        replace(workload, continuous_usage=False),
        replace(
            workload,
            continuous_usage=False,
            ignore_eos=False,
            ignore_eos_refused=workload.ignore_eos or workload.ignore_eos_refused,
        ),
    ]
    with _client(to) as client:
        for one in tried:
            answer = _post(client, to, one, "word")
            if answer.status_code == 200:
                return one
    detail = answer.text[:300]
    with contextlib.suppress(ValueError, TypeError, KeyError):
        detail = str(answer.json()["error"]["message"])[:300]
    raise PreflightError(
        "refused",
        f"{to.name} answered {answer.status_code}: {detail}",
        "mt-submit ls shows the model's state, mt-submit logs what its engine says",
    )


def size(to: Target, workload: Workload) -> Sizer:
    """Tokens of words, as this server counts them; a guess of one a word where it does not."""
    with _client(to) as client:

        def count(text: str) -> int:
            answer = _post(client, to, replace(workload, stream=False), text)
            return int(answer.json()["usage"]["prompt_tokens"])

        try:
            return measure_sizer(count)
        except (ValueError, TypeError, KeyError):
            return Sizer()


def _post(client: httpx.Client, to: Target, workload: Workload, text: str) -> httpx.Response:
    import httpx

    # A trace's own lengths would stand before these: a question is answered by a single token.
    short = replace(workload, output=Length(1, 1), prompt_tokens_of=(), output_tokens_of=())
    fields = json.loads(replace(short, nonce=False, texts=(text,)).body(0, to.model))
    try:
        return client.post(PATHS[workload.api], json=fields)
    except httpx.TransportError as error:
        raise PreflightError(
            "unreachable",
            f"{to.name} does not answer: {error or type(error).__name__}",
            "mt-submit ls shows the model's state",
        ) from error


def _client(to: Target) -> httpx.Client:
    import httpx

    scheme = "http" if to.certificate is None else "https"
    return httpx.Client(
        base_url="http://localhost" if to.socket else f"{scheme}://{_host(to.host)}:{to.port}",
        headers={"authorization": f"Bearer {to.key}"} if to.key else {},
        transport=httpx.HTTPTransport(uds=to.socket) if to.socket else None,
        timeout=_TIMEOUT_S,
        verify=to.tls or True,
        trust_env=False,
    )


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
