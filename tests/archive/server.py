"""The binary: a server of it on the embedded store, its commands, and all that it answers."""

import http.client
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 30
RUN_SECONDS_MAX = 120
COMMAND_SECONDS_MAX = 300
ANSWER_SECONDS_MAX = 60
LOG_SHOWN_CHARS = 3_000


class Broken(Exception):
    """What is wrong, for whoever reads the output of the check."""


class Colloquy:
    """The binary in a folder of its own, as somebody has it who configured nothing."""

    # Nothing but what the check asks for is archived.
    FLAGS = ["--set", "archive_every=off"]

    def __init__(self, binary: Path, folder: Path):
        self.binary = binary
        self.folder = folder
        self.archive = folder / "colloquy-data" / "archive"
        # Settings of the person who runs this must not reach the binary.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("COLLOQUY_")}

    def command(self, *words: str) -> str:
        """Runs a command, which must succeed; gives what it printed."""
        done = subprocess.run(
            [self.binary, *words, *self.FLAGS],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
        )
        if done.returncode != 0:
            raise Broken(f"colloquy {' '.join(words)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def serve(self) -> "Server":
        return Server(self)


class Server:
    """A running server, to be used in a `with`: it is told to stop at the end, and must exit with 0."""

    def __init__(self, colloquy: Colloquy):
        self.log = colloquy.folder / "log"
        address = colloquy.folder / "address"
        address.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [colloquy.binary, "serve", "--listen", "127.0.0.1:0", "--address-file", address, *colloquy.FLAGS],
                cwd=colloquy.folder,
                env=colloquy.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not (address.exists() and address.stat().st_size):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise Broken(f"the server was not ready within {START_SECONDS_MAX} s, or ended:\n{self.last_words()}")
            time.sleep(0.05)
        self.connection = http.client.HTTPConnection(urlsplit(address.read_text()).netloc, timeout=ANSWER_SECONDS_MAX)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.connection.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status != 0 and kind is None:
            raise Broken(f"the server ended with status {status} instead of 0:\n{self.last_words()}")

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_SHOWN_CHARS:]

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> bytes:
        """The body of the answer, whose status must be this."""
        sent = None if body is None else json.dumps(body)
        self.connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
        answer = self.connection.getresponse()
        got = answer.read()
        if answer.status != status:
            raise Broken(f"{method} {path} answered {answer.status} instead of {status}: {got[:500].decode()}")
        return got

    def archive_all(self) -> dict[str, Any]:
        """Archives every session that has ended, and waits for it; gives the record of the run."""
        run_id = json.loads(self.ask("POST", "/v1/admin/archive/runs", {"olderThan": "0s"}, 202))["runId"]
        deadline = time.monotonic() + RUN_SECONDS_MAX
        while time.monotonic() < deadline:
            runs = json.loads(self.ask("GET", "/v1/admin/archive/runs"))["runs"]
            run = next(run for run in runs if run["runId"] == run_id)
            if run["status"] == "completed" and run["sessionsFailed"] == 0:
                return run
            if run["status"] != "running":
                raise Broken(f"the run of the archiver did not go well: {run}")
            time.sleep(0.05)
        raise Broken(f"the run of the archiver took more than {RUN_SECONDS_MAX} s")

    def pages(self, path: str, **parameters: Any) -> dict[str, bytes]:
        """All pages from here on, by their addresses."""
        pages: dict[str, bytes] = {}
        while True:
            address = f"{path}?{urlencode(parameters)}"
            pages[address] = self.ask("GET", address)
            pagination = json.loads(pages[address])["pagination"]
            if not pagination["hasMore"]:
                return pages
            parameters["cursor"] = pagination["nextCursor"]


class Answers:
    """All that the API says of sessions and their events, walked page by page."""

    def __init__(self, server: Server):
        self.pages = server.pages("/v1/sessions", limit=100)
        self.sessions: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        for page in self.pages.values():
            self.sessions |= {session["sessionId"]: session for session in json.loads(page)["sessions"]}
        for session_id in self.sessions:
            path = session_path(session_id)
            forward = server.pages(path, limit=500)
            self.events[session_id] = [event for page in forward.values() for event in json.loads(page)["events"]]
            self.pages |= forward | server.pages(path + "/events", limit=100, order="desc")

    def archived(self) -> dict[str, dict[str, Any]]:
        return {session_id: session for session_id, session in self.sessions.items() if session["archived"]}

    def without(self, session_ids: list[str]) -> dict[str, bytes]:
        """The pages of the other sessions; the lists of sessions left out."""
        left_out = tuple(f"{session_path(session_id)}{after}" for session_id in session_ids for after in "?/")
        return {path: page for path, page in self.pages.items() if not path.startswith(("/v1/sessions?", *left_out))}


def session_path(session_id: str) -> str:
    return f"/v1/sessions/{quote(session_id, safe='')}"
