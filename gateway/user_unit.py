"""A systemd user unit of the gateway: restarted when it fails, there after a reboot.

Directives: systemd.service(5), systemd.exec(5). The socket's folder is in /tmp where the user has
no ``XDG_RUNTIME_DIR``, so PrivateTmp= would hide it from clients.
"""

from __future__ import annotations

from pathlib import Path

NAME = "modeltainer-gateway.service"

_TEXT = """\
# {name}: written by `mt-submit gateway unit`.
[Unit]
Description=ModelTainer gateway
After=network.target remote-fs.target

[Service]
ExecStart={start}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
TimeoutStopSec={stop_s}
LimitCORE=0
NoNewPrivileges=yes
UMask=0077

[Install]
WantedBy=default.target
"""


def user_unit(config: Path, *, python: str, drain_s: float) -> str:
    """The unit's text.

    Args:
        config: models.yaml.
        python: the interpreter that has ModelTainer.
        drain_s: how long the gateway lets running answers go on after SIGTERM.
    """
    words = (python, "-m", "modeltainer.cli.main", "--config", str(config))
    start = " ".join(_quoted(word) for word in (*words, "gateway", "start", "--foreground"))
    return _TEXT.format(name=NAME, start=start, stop_s=int(drain_s) + 10)


def _quoted(word: str) -> str:
    """One word of a command line, as systemd.syntax(7) reads it: ``%`` and ``$`` are special."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(" \t'\"") & set(word) else escaped
