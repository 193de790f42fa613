"""A scripted engine for what a real one does only by bad luck. First argument: what to do.

``hang``: never listen. ``port-taken STATE``: fail to bind twice, noting each port in STATE.
``stranger``: answer as a server that does not know the nonce. ``busy-for SECONDS``: report a
running request for this long after SIGTERM's drain began. ``serve``: answer, over TLS where it is
given a key file. ``no-tls``: the same without TLS, whatever it is given. ``impostor FOLDER``: the
same with the key and the certificate that lie there.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    names: tuple[str, ...] = ()
    busy_until = 0.0

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, body: Any, kind: str = "application/json") -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.reply({"data": [{"id": name} for name in self.names]})
        elif self.path == "/metrics":
            busy = int(time.monotonic() < self.busy_until)
            self.reply(f"llamacpp:requests_processing {busy}\n", "text/plain")
        else:
            self.reply({})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({"choices": [{"text": "x"}]})


def main() -> None:
    act, port = sys.argv[1], int(option("--port"))
    if act == "hang":
        time.sleep(600)
    if act == "port-taken":
        state = Path(sys.argv[2])
        with state.open("a") as file:
            file.write(f"{port}\n")
        if len(state.read_text().split()) < 3:
            sys.exit("OSError: [Errno 98] Address already in use")
    Handler.names = (
        ("someone-else",) if act == "stranger" else tuple(os.environ["LLAMA_ARG_ALIAS"].split(","))
    )
    if act == "busy-for":
        # Counted from the start: ready comes within a fraction of a second.
        Handler.busy_until = time.monotonic() + float(sys.argv[2]) + 1.0
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if "--ssl-key-file" in sys.argv and act != "no-tls":
        key, certificate = option("--ssl-key-file"), option("--ssl-cert-file")
        if act == "impostor":
            key, certificate = (f"{sys.argv[2]}/{Path(path).name}" for path in (key, certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
