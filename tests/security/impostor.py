"""bob's server: ``impostor.py PORT``. It takes the port once it is free, with a certificate of its
own, prints ``bound``, then every request that it hears, and answers what an engine would."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import subprocess
import sys
import tempfile
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        print("heard", self.path, dict(self.headers), body, flush=True)
        answer = b'{"data": [{"id": "tiny"}], "choices": [{"text": "bob"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 (the name that http.server looks for)

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    context: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, object]:
        taken, address = super().get_request()
        return self.context.wrap_socket(taken, server_side=True), address


def main() -> None:
    folder = tempfile.mkdtemp()
    key, certificate = f"{folder}/key", f"{folder}/certificate"
    forge = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=modeltainer"
    made = [*forge.split(), "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    Server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    Server.context.load_cert_chain(certificate, key)
    while True:
        with contextlib.suppress(OSError):
            server = Server(("0.0.0.0", int(sys.argv[1])), Handler)
            break
        time.sleep(0.05)
    print("bound", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
