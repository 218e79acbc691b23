"""Holds deploy/nginx/nginx.conf to what its comments promise, with nginx itself and replicas that fail on purpose.

    nginx.py NGINX

What can be repeated is repeated where a replica can't be reached or hangs up, and nothing else; what nginx refuses by
itself is a problem as the API's are; ids go through, no query gets into a log, and nobody reaches what is for operators;
pages are compressed, and no answer that has an ETag is.
"""

import gzip
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 20
ROUNDS = 4
EVENTS = "/v1/sessions/s/events"
REPEATED = [
    ("GET", "/v1/sessions/s"),
    ("DELETE", "/v1/sessions/s"),
    ("POST", EVENTS),
    ("POST", f"{EVENTS}/batch"),
    ("POST", "/v1/sessions/s/complete"),
]
NOT_REPEATED = [("POST", "/v1/sessions"), ("PATCH", "/v1/sessions/s")]


class Replica:
    """Answers 200 and what it was sent, unless `does` says another status, or to hang up (None)."""

    def __init__(self):
        replica = self
        self.does = 200
        self.etag = '"1"'
        self.seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                self.raw_requestline = self.rfile.readline()
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                replica.seen.append((self.command, self.path, dict(self.headers), body))
                if replica.does is None:
                    self.close_connection = True
                    return
                self.send_response(replica.does)
                self.send_header("Content-Type", "application/json")
                if replica.etag:
                    self.send_header("ETag", replica.etag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Proxy(unittest.TestCase):
    def setUp(self):
        self.replicas = [Replica(), Replica()]
        self.dir = Path(tempfile.mkdtemp(prefix="colloquy-nginx."))
        self.addCleanup(shutil.rmtree, self.dir)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        shutil.copy(ROOT / "deploy/nginx/nginx.conf", self.dir)
        # A replica that failed is asked again at once, so that every request is a case of its own.
        servers = [f"server 127.0.0.1:{replica.port} max_fails=0;\n" for replica in self.replicas]
        (self.dir / "upstream.conf").write_text("".join(servers))
        (self.dir / "listen.conf").write_text(f"listen 127.0.0.1:{self.port};\n")
        command = [NGINX, "-e", "stderr", "-p", f"{self.dir}/", "-c", str(self.dir / "nginx.conf")]
        if os.geteuid() == 0:
            command += ["-g", "user root;"]
        with open(self.dir / "access", "wb") as access, open(self.dir / "errors", "wb") as errors:
            self.nginx = subprocess.Popen(command, stdout=access, stderr=errors)
        self.addCleanup(self.stop_nginx)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                self.assertIsNone(self.nginx.poll(), (self.dir / "errors").read_text())
                self.assertLess(time.monotonic(), deadline, "nginx does not listen")
                time.sleep(0.02)

    def stop_nginx(self):
        self.nginx.terminate()
        self.nginx.wait(PATIENCE_S)
        for replica in self.replicas:
            replica.stop()

    def ask(self, method, path, body=b'{"a": 1}', **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        answer.body = answer.read()
        connection.close()
        return answer

    def assert_problem(self, answer, status, code):
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
        problem = json.loads(answer.body)
        self.assertEqual((problem["status"], problem["code"]), (status, code))
        self.assertEqual(problem["type"], f"urn:colloquy:problem:{code}")
        self.assertEqual(problem["requestId"], answer.headers["X-Request-Id"])

    def test_a_replica_that_cannot_be_reached_is_noticed_by_no_caller(self):
        self.replicas[0].stop()
        for method, path in REPEATED + NOT_REPEATED:
            for _ in range(ROUNDS):
                self.assertEqual(self.ask(method, path).status, 200, f"{method} {path}")

    def test_what_may_be_repeated_goes_whole_to_the_other_replica_when_one_hangs_up(self):
        self.replicas[0].does = None
        for method, path in REPEATED:
            for _ in range(ROUNDS):
                answer = self.ask(method, path, body=b"x" * 1_000_000)
                self.assertEqual((answer.status, len(answer.body)), (200, 1_000_000), f"{method} {path}")
        self.assertTrue(self.replicas[0].seen, "no request met the replica that hangs up")

    def test_what_may_not_be_repeated_is_answered_by_a_problem_when_a_replica_hangs_up(self):
        self.replicas[0].does = None
        for method, path in NOT_REPEATED:
            for replica in self.replicas:
                replica.seen.clear()
            answers = [self.ask(method, path) for _ in range(ROUNDS)]
            hung_up, answered = (len(replica.seen) for replica in self.replicas)
            self.assertGreater(hung_up, 0, "no request met the replica that hangs up")
            self.assertEqual(hung_up + answered, ROUNDS, f"{method} {path} was sent twice")
            refused = [answer for answer in answers if answer.status != 200]
            self.assertEqual(len(refused), hung_up)
            for answer in refused:
                self.assert_problem(answer, 503, "store-unavailable")

    def test_an_answer_of_a_replica_is_passed_on_whatever_it_says(self):
        for replica in self.replicas:
            replica.does = 503
        for method, path in REPEATED + NOT_REPEATED:
            for replica in self.replicas:
                replica.seen.clear()
            answer = self.ask(method, path)
            self.assertEqual((answer.status, answer.body), (503, b'{"a": 1}'))
            self.assertEqual(sum(len(replica.seen) for replica in self.replicas), 1, f"{method} {path} was repeated")

    def test_with_no_replica_left_the_answer_says_when_to_come_back(self):
        for replica in self.replicas:
            replica.stop()
        answer = self.ask("POST", EVENTS)
        self.assert_problem(answer, 503, "store-unavailable")
        self.assertEqual(answer.headers["Retry-After"], "1")

    def test_a_body_that_no_replica_would_take_is_refused_as_the_api_refuses_it(self):
        self.assert_problem(self.ask("POST", EVENTS, body=b"x" * (5 << 20 | 1)), 413, "content-too-large")
        self.assertEqual(self.ask("POST", EVENTS, body=b"x" * (4 << 20 | 1)).status, 200)

    def test_what_is_for_operators_is_not_for_callers_however_it_is_spelled(self):
        admin = [
            "/v1/admin",
            "/v1/admin/",
            "/v1/admin/archive/runs",
            "/v1//admin/archive/runs",
            "//v1/admin/archive/runs",
            "/v1/%61dmin/archive/runs",
            "/v1/admin%2Farchive/runs",
            "/v1%2fadmin/archive/runs",
            "/v1/x/../admin/archive/runs",
            "/v1/x%2f..%2fadmin/archive/runs",
            "/v1/%2e%2e/v1/./admin/archive/runs",
            "/V1/Admin/archive/runs",
            "/v1/admin/archive/runs?limit=1",
            "/v1/admin?/v1/sessions",
            "http://somewhere/v1/admin/archive/runs",
        ]
        metrics = ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/v1/../metrics", "/METRICS", "/metrics?x=1"]
        for path in admin + metrics:
            for method in ("GET", "POST", "HEAD", "DELETE"):
                answer = self.ask(method, path)
                self.assertEqual(answer.status, 404, f"{method} {path}")
                if method != "HEAD":
                    self.assert_problem(answer, 404, "route-not-found")
        self.assert_problem(self.ask("POST", "/v1/admin/archive/runs", body=b"x" * 3_000_000), 404, "route-not-found")
        self.assertFalse(any(replica.seen for replica in self.replicas))
        for path in ("/v1/sessions/admin", "/v1/sessions/admin/events", "/v1/administration", "/v1/sessions/metrics"):
            self.assertEqual(self.ask("GET", path).status, 200, path)

    def test_what_nginx_refuses_itself_is_a_problem(self):
        self.assert_problem(self.ask("TRACE", "/v1/sessions", body=None), 405, "method-not-allowed")
        self.assert_problem(self.ask("GET", "/v1/sessions", X_Long="x" * 10_000), 431, "head-too-large")
        self.assert_problem(self.ask("GET", "/v1/sessions?x=" + "x" * 10_000), 431, "head-too-large")
        self.assert_problem(self.ask("GET", "/v1/sessions", Content_Length="much"), 400, "bad-request")
        self.assert_problem(self.ask("GET", "/v1/sessions", Transfer_Encoding="x"), 400, "bad-request")
        for head in (b"garbage", b"\0\1", b"GET /x y HTTP/1.1", b"GET / HTTP/3.0", b"GET /%00 HTTP/1.1", b"GET /../x HTTP/1.1"):
            with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
                connection.sendall(head + b"\r\nHost: x\r\n\r\n")
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                answer.body = answer.read()
            self.assert_problem(answer, 400, "bad-request")
        self.assertFalse(any(replica.seen for replica in self.replicas))

    def test_ids_go_through_and_only_those_that_colloquy_would_take(self):
        trace = "00-11111111111111111111111111111111-2222222222222222-01"
        longest = "!" * 128
        for sent in ("call-1[a]", longest, 'a"b', "a\\b", longest + "!", ""):
            self.ask("GET", "/v1/sessions", X_Request_Id=sent, traceparent=trace)
        seen = sorted(
            (request for replica in self.replicas for request in replica.seen),
            key=lambda one: len(one[2]["X-Request-Id"]),
        )
        ids = [headers["X-Request-Id"] for _, _, headers, _ in seen]
        self.assertEqual((ids[0], ids[-1]), ("call-1[a]", longest))
        for made in ids[1:-1]:
            self.assertRegex(made, "^[0-9a-f]{32}$")
        self.assertTrue(all(headers["traceparent"] == trace for _, _, headers, _ in seen))

    def test_etags_stay_strong_whatever_the_caller_accepts(self):
        session = "/v1/sessions/s"
        alone = ["limit=0", "limit=00", "order=asc&limit=0", "limit=0&order=asc", "limit=%30", "li%6dit=0", "%6cimit=0"]
        asked = [("GET", f"{session}?{query}") for query in alone]
        asked += [("POST", "/v1/sessions"), ("PATCH", session), ("POST", f"{session}/complete"), ("POST", EVENTS)]
        for method, path in asked:
            answer = self.ask(method, path, body=b" " * 100_000, Accept_Encoding="gzip")
            encoding = answer.headers["Content-Encoding"]
            self.assertEqual((answer.headers["ETag"], encoding), ('"1"', None), f"{method} {path}")
            self.assertEqual(len(answer.body), 100_000)

    def test_pages_are_compressed_for_those_who_accept_it(self):
        for replica in self.replicas:
            replica.etag = None
        pages = ["/v1/sessions/s", "/v1/sessions/s?limit=10", "/v1/sessions?startedAfter=2026-09-01T00%3A00%3A00Z", EVENTS]
        pages += [f"{EVENTS}?limit=100&cursor=a%3D%3D", "/v1/sessions?userId=limit"]
        body = b'{"a": 1}' * 200
        for path in pages:
            answer = self.ask("GET", path, body=body, Accept_Encoding="gzip")
            self.assertEqual(answer.headers["Content-Encoding"], "gzip", path)
            self.assertEqual(answer.headers["Vary"], "Accept-Encoding")
            self.assertEqual(gzip.decompress(answer.body), body)
            # A proxy of the caller's own changes nothing.
            answer = self.ask("GET", path, body=body, Accept_Encoding="gzip", Via="1.1 proxy")
            self.assertEqual(answer.headers["Content-Encoding"], "gzip", path)
            answer = self.ask("GET", path, body=body)
            self.assertEqual((answer.headers["Content-Encoding"], answer.body), (None, body))
            self.assertEqual(answer.headers["Vary"], "Accept-Encoding", "caches must know, too")
            # What is small is not worth it.
            answer = self.ask("GET", path, body=body[:800], Accept_Encoding="gzip")
            self.assertEqual((answer.headers["Content-Encoding"], answer.body), (None, body[:800]))

    def test_no_log_has_a_query_or_a_body(self):
        self.ask("POST", f"{EVENTS}?userId=secret-of-query", body=b"secret-of-body", X_Request_Id="seen")
        for replica in self.replicas:
            replica.stop()
        self.ask("GET", "/v1/sessions?userId=secret-of-query")
        self.nginx.terminate()
        self.nginx.wait(PATIENCE_S)
        access = (self.dir / "access").read_text()
        lines = [json.loads(line) for line in access.splitlines()]
        self.assertEqual([line["path"] for line in lines], [EVENTS, "/v1/sessions"])
        self.assertEqual(lines[0]["request_id"], "seen")
        self.assertNotIn("secret", access + (self.dir / "errors").read_text())


if __name__ == "__main__":
    NGINX = sys.argv.pop()
    unittest.main()
