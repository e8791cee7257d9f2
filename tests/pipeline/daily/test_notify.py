import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipeline.config.daily import HooksConfig
from pipeline.daily import notify
from pipeline.daily.notify import tell


def test_a_webhook_gets_the_news() -> None:
    heard: list[dict] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        config = HooksConfig(events=("held",), webhook=f"http://127.0.0.1:{server.server_port}/x")
        tell(config, "published", run="r", day="d", text="not wanted")
        tell(config, "held", run="r", day="d", text="auc -0.1")
        thread.join()
    assert heard == [{"event": "held", "run": "r", "day": "d", "text": "auc -0.1"}]


@pytest.mark.parametrize(
    "config",
    [
        HooksConfig(webhook="http://127.0.0.1:9/nobody"),
        HooksConfig(webhook="file:///etc/passwd"),
        HooksConfig(command="false"),
        HooksConfig(command="no-such-command"),
        HooksConfig(command=""),
        HooksConfig(webhook="http://127.0.0.1:9/no body"),
    ],
    ids=["nobody listens", "no http", "a command that fails", "no such command", "no command", "no address"],
)
def test_a_hook_that_fails_is_told_and_nothing_else(config: HooksConfig, capfd: pytest.CaptureFixture[str]) -> None:
    tell(config, "held", run="r", day="2026-11-20", text="")
    assert "a hook for held 2026-11-20 failed" in capfd.readouterr().err


def test_a_webhook_that_fails_keeps_nothing_from_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = HooksConfig(webhook="http://127.0.0.1:9/nobody", command=f"tee {tmp_path / 'told'}")
    tell(config, "failed", run="r", day="", text="disk full")
    assert json.loads((tmp_path / "told").read_text())["text"] == "disk full"
    assert capfd.readouterr().err.count("a hook for failed") == 1


def test_a_server_that_speaks_no_http_is_told_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as line:
                line.recv(1 << 16)
                line.sendall(b"who are you?\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        tell(HooksConfig(webhook=f"http://127.0.0.1:{server.getsockname()[1]}/"), "held", run="r", day="2026-11-20", text="")
        thread.join()
    assert "a hook for held 2026-11-20 failed" in capfd.readouterr().err


def test_a_command_gets_the_news(tmp_path: Path) -> None:
    tell(HooksConfig(command=f"tee '{tmp_path / 'a b'}'"), "failed", run="r", day="", text="disk full")
    assert json.loads((tmp_path / "a b").read_text())["text"] == "disk full"


def test_a_command_is_no_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("HOOKS_TOKEN", "a secret")
    tell(HooksConfig(command=f"sh -c 'env > {tmp_path}/env'"), "failed", run="r", day="", text="disk full")
    known = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert known["HOOKS_TOKEN"] == "a secret"
    assert not {"RANK", "MASTER_PORT"} & known.keys()


def test_what_a_hook_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SECONDS", 0.5)
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\n(sleep 2; touch {tmp_path}/late) &\nwait\n")
    script.chmod(0o755)
    tell(HooksConfig(command=str(script)), "failed", run="r", day="d", text="t")
    time.sleep(2.5)

    assert not (tmp_path / "late").exists()


def test_the_key_in_an_address_is_not_in_the_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOK_KEY", "abc123")
    tell(HooksConfig(webhook="gopher://${HOOK_KEY}.example"), "failed", run="r", day="d", text="t")
    tell(HooksConfig(command="/no/such/${HOOK_KEY}"), "failed", run="r", day="d", text="t")

    assert "abc123" not in capsys.readouterr().err
