"""The audit of the dependencies: what it says with and without an advisory service."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests import audit


class Service(BaseHTTPRequestHandler):
    """An advisory service that knows one bad package."""

    bad = "numpy"

    def do_POST(self) -> None:
        questions = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        results = [
            {"vulns": [{"id": "TEST-1"}]} if q["package"]["name"] == self.bad else {}
            for q in questions
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"results": results}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("bad", ["numpy", "no such package"])
def test_advisories_are_named(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setattr(Service, "bad", bad)
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = audit.audit(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert found["audited"]
    assert found["packages"] > 10
    words = audit.told(found)
    if bad == "numpy":
        assert list(found["advisories"].values()) == [["TEST-1"]]
        assert "numpy" in words
        assert "TEST-1" in words
    else:
        assert found["advisories"] == {}
        assert words.startswith("audited: no advisory")


def test_without_the_service_it_says_not_audited() -> None:
    found = audit.audit("http://127.0.0.1:9/")
    assert not found["audited"]
    assert audit.told(found).startswith("NOT AUDITED: ")
