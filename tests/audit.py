"""python -m tests.audit: the installed packages against the advisories of OSV (osv.dev).

Exit code 1 where an advisory is known, 0 where none is, and 0 with the words "not audited" where
the service cannot be asked: silence is never taken for safety.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import urllib.request
from importlib import metadata
from typing import Any

SERVICE = "https://api.osv.dev/v1/querybatch"
SECONDS = 15.0
OURS = "unet2015"


def installed() -> list[tuple[str, str]]:
    """Name and public version of each package of this environment, sorted, without our own."""
    found = {
        (str(one.metadata["Name"]).lower(), one.version.partition("+")[0])
        for one in metadata.distributions()
    }
    return sorted(pair for pair in found if pair[0] != OURS)


def ask(service: str, packages: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Advisories of each package that has some; raises where the service gives no such answer."""
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version}
        for name, version in packages
    ]
    request = urllib.request.Request(
        service, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        results = json.load(answer)["results"]
    if len(results) != len(packages):
        raise ValueError(f"{len(results)} answers to {len(packages)} questions")
    return {
        f"{name} {version}": sorted(one["id"] for one in result["vulns"])
        for (name, version), result in zip(packages, results, strict=True)
        if result.get("vulns")
    }


def audit(service: str = SERVICE) -> dict[str, Any]:
    """What is known: `audited`, `packages`, and `advisories` or the `reason` why not."""
    packages = installed()
    try:
        advisories = ask(service, packages)
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        return {"audited": False, "packages": len(packages), "reason": reason}
    return {"audited": True, "packages": len(packages), "advisories": advisories}


def told(found: dict[str, Any]) -> str:
    """The result in words."""
    if not found["audited"]:
        return (
            f"NOT AUDITED: {found['packages']} packages; the advisory service {SERVICE} "
            f"cannot be asked ({found['reason']})"
        )
    if not found["advisories"]:
        return f"audited: no advisory for any of {found['packages']} packages"
    lines = [f"  {name}: {', '.join(ids)}" for name, ids in found["advisories"].items()]
    return "\n".join([f"ADVISORIES for {len(lines)} of {found['packages']} packages:", *lines])


def main() -> int:
    """Exit code: 1 where there are advisories."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument("--service", default=SERVICE, help="address of the OSV batch query")
    parser.add_argument("--record", action="store_true", help="result into docs/reliability.md")
    chosen = parser.parse_args()
    found = audit(chosen.service)
    print(told(found))
    if chosen.record:
        from tests.faults.reliability import machine, store

        store("audit", {"machine": machine(), **found})
    return int(bool(found.get("advisories")))


if __name__ == "__main__":
    sys.exit(main())
