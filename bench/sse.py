"""Server-sent events out of bytes that were cut anywhere."""

from __future__ import annotations


class EventScanner:
    """Gives the data of each complete event. Comments (pings) and fields other than ``data`` are
    skipped; lines end with LF, CRLF or CR, as the standard has it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that this piece completes."""
        if (  # one event, as most pieces are
            not self._rest
            and piece.startswith(b"data: ")
            and piece.find(b"\n") == len(piece) - 2
            and piece.endswith(b"\n\n")
            and b"\r" not in piece
        ):
            return [piece[6:-2]]
        data = self._rest + piece if self._rest else piece
        held = b""
        if b"\r" in data:
            if data.endswith(b"\r"):
                data, held = data[:-1], b"\r"  # its LF may be in the next piece
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = data.split(b"\n\n")
        self._rest = rest + held
        events = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(block[6:])  # what all engines send
            elif (event := _data_of(block)) is not None:
                events.append(event)
        return events


def _data_of(block: bytes) -> bytes | None:
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
