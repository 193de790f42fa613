"""What doctor's job does on the compute node: ``python -m modeltainer.cli.node_probe FOLDER``.

It reads the login side's token from the shared folder, writes its own answer there, and waits on a
port for login to come. Port and address are chosen as the agent chooses them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

from modeltainer import spec as spec_file
from modeltainer.cli.doctor_checks import squashfuse, user_namespaces_work
from modeltainer.jobs.ports import hold_port
from modeltainer.jobs.site_facts import addresses, job_facts
from modeltainer.registry.atomic import write_whole

VISIBLE_S = 20.0
"""For a file of one side to be seen by the other (NFS keeps folder listings for up to a minute,
but a file that is opened for the first time is asked for)."""
VISIT_S = 30.0


def probe(folder: Path) -> None:
    """Answer, and be visited once.

    Raises:
        OSError: the folder cannot be read or written here.
        NoFreePortError: no port in the site's range.
        NoSuchInterfaceError: the site's interface is not on this node.
    """
    import shutil

    deadline = time.monotonic() + VISIBLE_S
    while not (folder / "token").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    token = (folder / "token").read_text()
    spec = spec_file.decode((folder / "spec.json").read_bytes())
    bind, host = addresses(spec, job_facts(spec, os.environ, time.time()))
    held = hold_port(bind, spec.site.ports)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((bind, held.port))
        listener.listen()
        listener.settimeout(VISIT_S)
        answer = {
            "token": token,
            "host": host,
            "port": held.port,
            "node": socket.gethostname(),
            "python": sys.executable,
            "apptainer": shutil.which("apptainer") or shutil.which("singularity"),
            "user_namespaces": user_namespaces_work(),
            "squashfuse": squashfuse(),
        }
        write_whole(folder / "answer.json", json.dumps(answer).encode())
        visitor, _ = listener.accept()
        with visitor:
            visitor.sendall(token.encode())
    held.release()


if __name__ == "__main__":
    probe(Path(sys.argv[1]))
