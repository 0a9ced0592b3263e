"""Append-only list of JSON records, each line with a checksum chained to the line before.

Whatever happens to the end of such a file (torn, doubled, zeroed), its undamaged head is read
back and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = [
    "JOURNAL_FORMAT",
    "MAX_JOURNAL_BYTES",
    "first_difference",
    "journal_lines",
    "notes_of",
    "numbered_records",
    "other_header",
    "read_journal",
]

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


def notes_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Values that `Partial.note` kept, by their names; the last one counts.

    Examples
    --------
    >>> notes_of([{"note": "seams", "value": 1}, {"n": 0}, {"note": "seams", "value": 2}])
    {'seams': 2}
    """
    found = (record for record in records if isinstance(record.get("note"), str))
    return {record["note"]: record.get("value") for record in found}


def numbered_records(records: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Records whose "n" is 0, 1, 2, ... below `count`, as last written.

    A repeated number replaces its record and what followed; a record that makes no sense (a
    checksum is no signature) ends them.

    Examples
    --------
    >>> numbered_records([{"n": 0}, {"n": 1}, {"n": 0, "again": True}, {"n": 7}, {"n": 1}], 9)
    [{'n': 0, 'again': True}]
    """
    kept: list[dict[str, Any]] = []
    for record in records:
        number = record.get("n")
        if type(number) is not int or not 0 <= number <= len(kept) or number >= count:
            break
        del kept[number:]
        kept.append(record)
    return kept


def other_header(found: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    """What sets the first line of a journal apart from the one that a run would write.

    Examples
    --------
    >>> other_header({"format": JOURNAL_FORMAT, "identity": {"a": 1}}, {"identity": {"a": 2}})
    'a: 1, now 2'
    """
    if found.get("format") != JOURNAL_FORMAT:
        return f"journal format {str(found.get('format'))[:40]!r}"
    theirs, ours = found.get("identity"), header["identity"]
    if not isinstance(theirs, dict):
        return "no identity"
    return first_difference(theirs, ours) or "other keys"


def first_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first of our keys whose values differ, however deep, with both; "" where none does.

    Examples
    --------
    >>> first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    'c: 2, now 3'
    >>> first_difference({"image_sha256": "05ac"}, {"image_sha256": "f3e1"})
    'another image'
    """
    for key in (*ours, *(key for key in theirs if key not in ours)):
        old, new = theirs.get(key), ours.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return first_difference(old, new)
        if old != new and key.endswith("_sha256"):
            return f"another {key.removesuffix('_sha256')}"
        if old != new:
            return f"{key}: {str(old)[:60]}, now {str(new)[:60]}"
    return ""
