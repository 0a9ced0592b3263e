"""Append-only list of JSON records, each line with a checksum chained to the line before.

Whatever happens to the end of such a file (torn, doubled, zeroed), its undamaged head is read
back and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["JOURNAL_FORMAT", "MAX_JOURNAL_BYTES", "journal_lines", "read_journal"]

JOURNAL_FORMAT = "unet2015-journal/1"
MAX_JOURNAL_BYTES = 1 << 28
_DIGITS = 16


def journal_lines(records: list[dict[str, Any]], previous: str = "") -> tuple[bytes, str]:
    """Journal lines for `records`, and the checksum that the next line is chained to."""
    lines = []
    for record in records:
        text = json.dumps(record, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
        previous = hashlib.sha256(f"{previous} {text}".encode("ascii")).hexdigest()[:_DIGITS]
        lines.append(f"{previous} {text}\n".encode("ascii"))
    return b"".join(lines), previous


def read_journal(data: bytes) -> tuple[list[dict[str, Any]], int, str]:
    """Records of the undamaged head of a journal, its length in bytes and its last checksum.

    Examples
    --------
    >>> lines, _ = journal_lines([{"tile": 0}, {"tile": 1}])
    >>> read_journal(lines[:-1])[0]
    [{'tile': 0}]
    """
    records: list[dict[str, Any]] = []
    end, previous = 0, ""
    while (stop := data.find(b"\n", end)) >= 0:
        line = data[end:stop]
        body = previous.encode("ascii") + line[_DIGITS:]
        digest = hashlib.sha256(body).hexdigest()[:_DIGITS]
        if line[: _DIGITS + 1] != digest.encode("ascii") + b" ":
            break
        try:
            record = json.loads(line[_DIGITS + 1 :])
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict):
            break
        records.append(record)
        end, previous = stop + 1, digest
    return records, end, previous
