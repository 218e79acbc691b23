"""Alerts and dashboard of deploy/, held against what they speak of: the configuration, the operator's handbook, the
tests of the alerts, and a real server with a cache and an archive, which a real Prometheus scrapes while it is used.

All that is wrong is said at once. prometheus.sh is how to run it.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "archive"))
from server import Broken, Colloquy, Server  # noqa: E402

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "colloquy.json"
OPERATIONS = ROOT / "docs" / "OPERATIONS.md"
DEPLOYMENT = ROOT / "k8s" / "base" / "deployment.yaml"

WAIT_SECONDS_MAX = 25

# What the rule of this name repeats of config.default.toml.
LIMITS = {
    "colloquy:append_queue_events:max": "append_queue_events_max",
    "colloquy:append_queue_bytes:max": "append_queue_bytes_max",
    "colloquy:connections:max": "connections_max",
    "colloquy:cache_unmarked_sessions:max": "cache_unmarked_max",
    "colloquy:archive_every:seconds": "archive_every",
}
MEMORY_LIMIT = "colloquy:memory_bytes:max"

# Prometheus makes these itself, the last one as prometheus.yml says.
TARGET_LABELS = {"job", "instance", "component"}
OWN_METRICS = {"up", "ALERTS"}

# A panel that may be empty tells so whoever looks at it.
MAY_BE_EMPTY = "No data is good"

faults: list[str] = []


def check(is_good: bool, fault: str) -> None:
    if not is_good and fault not in faults:
        faults.append(fault)


# --- PromQL, as far as names go


GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = GROUPING | set("and or unless bool offset sum min max avg count topk".split())
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[a-zA-Z_:][\w:]*|[\d.]+\w*|=~|!~|!=|[^\s]')


class Names:
    """The metrics that an expression asks for, each with its matchers, and the labels that it groups by."""

    def __init__(self, expression: str):
        self.selectors: list[tuple[str, list[tuple[str, str, str]]]] = []
        self.grouped: set[str] = set()
        tokens = [*TOKEN.findall(expression.replace("'", '"')), ""]
        at = 0
        while at < len(tokens) - 1:
            word, following = tokens[at], tokens[at + 1]
            at += 1
            if not re.match(r"[a-zA-Z_:]", word):
                continue
            if word in GROUPING and following == "(":
                end = tokens.index(")", at)
                self.grouped.update(token for token in tokens[at + 1 : end] if token != ",")
                at = end
            elif following == "{":
                end = tokens.index("}", at)
                inside = [token for token in tokens[at + 1 : end] if token != ","]
                matchers = zip(inside[::3], inside[1::3], (value.strip('"') for value in inside[2::3]), strict=True)
                self.selectors.append((word, list(matchers)))
                at = end
            elif following != "(" and word not in WORDS:
                self.selectors.append((word, []))


def read_metrics(text: str) -> dict[str, list[dict[str, str]]]:
    """The labels of every series in what a server shows, by the name of the series."""
    series: dict[str, list[dict[str, str]]] = {}
    for line in text.splitlines():
        if found := re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
            series.setdefault(found[1], []).append(labels)
    return series


# --- What is in the files


def load_rules() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The alerts by their names, and the expressions of the recording rules by theirs."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    return alerts, {rule["record"]: rule["expr"] for rule in rules if "record" in rule}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def check_alerts(alerts: dict[str, dict[str, Any]]) -> None:
    headings = []
    if OPERATIONS.exists():
        headings = re.findall(r"^#+ `?(\w+)`?$", OPERATIONS.read_text(), re.MULTILINE)
    check(OPERATIONS.exists(), "docs/OPERATIONS.md is missing; every alert needs a heading in it")
    fired, quiet = set(), set()
    for path in sorted(ALERTS.parent.glob("*.test.yml")):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                check(case["alertname"] in alerts, f"{path.name} tests {case['alertname']}, which is no alert")
                expected = case["exp_alerts"]
                if not expected:
                    quiet.add(case["alertname"])
                elif all(alert.get("exp_labels") and alert.get("exp_annotations") for alert in expected):
                    fired.add(case["alertname"])
    for name, alert in alerts.items():
        notes = alert.get("annotations", {})
        check(alert.get("labels", {}).get("severity") in ("page", "ticket"), f"{name}: severity must be page or ticket")
        check(bool(notes.get("summary")), f"{name} has no summary")
        check("{{" in notes.get("description", ""), f"{name}: the description has no numbers")
        runbook = f"docs/OPERATIONS.md#{name.lower()}"
        check(notes.get("runbook") == runbook, f"{name}: runbook must name its own heading")
        check(not OPERATIONS.exists() or name in headings, f"{name} has no heading in docs/OPERATIONS.md")
        check(name in fired, f"{name}: no test has it firing with its labels and annotations")
        check(name in quiet, f"{name}: no test has it keep quiet")


def check_limits(records: dict[str, str]) -> None:
    """What the rules repeat of the configuration is what the configuration says."""
    defaults = tomllib.loads((ROOT / "config.default.toml").read_text())
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    for record, key in LIMITS.items():
        value = defaults[key]
        number = value if isinstance(value, int) else int(value[:-1]) * units[value[-1]]
        check(records.get(record) == f"vector({number})", f"{record} is {records.get(record)}, but {key} is {value}")
    check(DEPLOYMENT.exists(), "k8s/base/deployment.yaml is missing; it has the memory limit that the alerts know")
    if DEPLOYMENT.exists():
        containers = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]["containers"]
        limit = next(one for one in containers if one["name"] == "colloquy")["resources"]["limits"]["memory"]
        number = int(limit[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[limit[-2:]]
        given = records.get(MEMORY_LIMIT)
        check(given == f"vector({number})", f"{MEMORY_LIMIT} is {given}, but the container may take {limit}")


def check_dashboard(dashboard: dict[str, Any]) -> None:
    """Every panel says what it is, in which unit, and what good looks like, and no two lie on each other."""
    variables = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    everything = dashboard["panels"]
    ids = [panel["id"] for panel in everything]
    check(len(ids) == len(set(ids)), "the dashboard has panels with the same id")
    taken: dict[tuple[int, int], str] = {}
    for panel in everything:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            check(x < 24, f"panel {panel['id']} is wider than the dashboard")
            for y in range(place["y"], place["y"] + place["h"]):
                check((x, y) not in taken, f"panel {panel['id']} lies on panel {taken.get((x, y))}")
                taken[x, y] = panel["id"]
    for panel in panels(dashboard):
        name = f"panel {panel['id']}"
        check(bool(panel.get("title")), f"{name} has no title")
        check("good" in panel.get("description", "").lower(), f"{name}: the description must say what good looks like")
        check("unit" in panel["fieldConfig"]["defaults"], f"{name} has no unit")
        check(bool(panel["targets"]), f"{name} asks nothing")
        sources = [part["datasource"]["uid"] for part in [panel, *panel["targets"]] if "datasource" in part]
        check(set(sources) == {"${datasource}"}, f"{name}: the data source must be the variable")
        for target in panel["targets"]:
            for variable in re.findall(r"\$\{?(\w+)", target["expr"]):
                check(variable in variables, f"{name} uses ${variable}, which is no variable")


# --- What a server shows


def expressions(
    alerts: dict[str, dict[str, Any]], records: dict[str, str], dashboard: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Everything that is asked of Prometheus anywhere, with who asks it."""
    for name, alert in alerts.items():
        yield name, alert["expr"]
        for note in alert["annotations"].values():
            for asked in re.findall(r'query "([^"]+)"|"([^"]+)"[^|}]*\| query', note):
                yield f"the text of {name}", "".join(asked)
    yield from records.items()
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield f"panel {panel['id']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"the annotation {annotation['name']}", annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            yield f"the variable {variable['name']}", f"count by ({asked[2]}) ({asked[1]})"


def check_names(who: str, expression: str, series: dict[str, list[dict[str, str]]], known: set[str]) -> None:
    """Every metric that is asked for is there, with the labels, and the values of them, that are asked for."""
    names = Names(expression)
    labels = set(TARGET_LABELS)
    for metric, matchers in names.selectors:
        if metric in known:
            labels.update({"alertname", "alertstate", "http_route", "kind"})
            continue
        check(metric in series, f"{metric}: no such metric at /metrics ({who})")
        rows = series.get(metric, [])
        labels.update(label for row in rows for label in row)
        for label, operator, value in matchers:
            # What a text fills in is not known here.
            if label in TARGET_LABELS or not rows or value == "%s":
                continue
            values = {row[label] for row in rows if label in row}
            check(bool(values), f"{metric} has no label {label} ({who})")
            found = value in values if operator == "=" else any(re.fullmatch(value, one) for one in values)
            check(operator[0] == "!" or found, f"{metric} never has {label}{operator}{value} ({who})")
    for label in names.grouped - labels:
        known_rows = all(metric in known or metric in series for metric, _ in names.selectors)
        check(not known_rows, f"{who} groups by {label}, which none of its metrics has")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Program:
    """A program that serves until the end of the `with`."""

    def __init__(self, folder: Path, name: str, *command: str | Path):
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.name = name

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.terminate()
        try:
            self.process.wait(WAIT_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_for(self, port: int) -> None:
        def accepts() -> bool:
            if self.process.poll() is not None:
                raise Broken(f"{self.name} ended:\n{self.log.read_text(errors='replace')[-2000:]}")
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        wait_until(f"{self.name} accepts connections", accepts)


def wait_until(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not is_so():
        if time.monotonic() > deadline:
            raise Broken(f"not within {WAIT_SECONDS_MAX} s: {what}")
        time.sleep(0.05)


def watched(binary: Path, folder: Path, redis_port: int) -> Colloquy:
    """A server with everything, whose rounds are short."""
    settings = {
        "cache": f"redis://127.0.0.1:{redis_port}",
        "archive_every": "500ms",
        "archive_after": "0s",
        "upkeep_every_ms": 200,
        "health_every_ms": 200,
    }
    colloquy = Colloquy(binary, folder)
    colloquy.FLAGS = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return colloquy


def metrics(server: Server) -> str:
    return server.ask("GET", "/metrics").decode()


def talk(server: Server, session: str) -> None:
    """One session in all that a caller does; it is archived at the end of it, by the server itself."""
    path = f"/v1/sessions/{session}"
    event = {"eventId": "e-1", "type": "user_speech", "payload": {"text": "Good evening."}}
    server.ask("POST", "/v1/sessions", {"sessionId": session}, 201)
    server.ask("POST", f"{path}/events", event, 201)
    server.ask("POST", f"{path}/events", event, 200)
    server.ask("POST", f"{path}/events", event | {"type": "system"}, 409)
    server.ask("POST", f"{path}/events/batch", {"events": [event | {"eventId": f"b-{n}"} for n in range(20)]})
    for _ in range(2):
        server.ask("GET", path)
    server.ask("POST", f"{path}/complete")
    wait_until("the session is archived", lambda: json.loads(server.ask("GET", path))["session"]["archived"])
    server.ask("GET", path)


def break_archive(server: Server, archive: Path, session: str) -> None:
    """Takes the archive away until a caller and the server's chores have felt it, and gives it back."""
    away = archive.with_name("away")
    archive.rename(away)
    archive.write_text("a file where the folder was")
    try:
        server.ask("GET", f"/v1/sessions/{session}/events", status=503)
        wait_until("a chore fails without its archive", lambda: "colloquy_chore_failures_total{" in metrics(server))
    finally:
        archive.unlink()
        away.rename(archive)


class Prometheus:
    """Prometheus with the configuration and the rules of deploy/, but for the target and the times."""

    def __init__(self, folder: Path, target: str):
        self.port = free_port()
        config = yaml.safe_load((ALERTS.parent / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        job = next(job for job in config["scrape_configs"] if job["job_name"] == "colloquy")
        job["static_configs"] = [{"targets": [target]}]
        config["scrape_configs"] = [job]
        rules = yaml.safe_load(ALERTS.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
        self.program = Program(
            folder,
            "prometheus",
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )

    def ask(self, path: str, **parameters: str) -> Any:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}?{urlencode(parameters)}") as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise Broken(f"{parameters}: {json.load(error)['error']}") from error

    def empty(self, dashboard: dict[str, Any]) -> list[str]:
        """The questions of the dashboard that it has no answer to, though their panels promise one."""
        values = {"$__rate_interval": "10s", "$instance": ".*", "$job": "colloquy"}
        missing = []
        for panel in panels(dashboard):
            for target in panel["targets"]:
                asked = re.sub("|".join(map(re.escape, values)), lambda name: values[name[0]], target["expr"])
                answered = self.ask("/api/v1/query", query=asked)["result"]
                if not answered and MAY_BE_EMPTY not in panel["description"]:
                    missing.append(f"panel {panel['id']} ({panel['title']}) has no data: {asked}")
        return missing

    def check_rules(self) -> None:
        for group in self.ask("/api/v1/rules")["groups"]:
            for rule in group["rules"]:
                error = rule.get("lastError", rule["health"])
                check(rule["health"] == "ok", f"{rule['name']} can't be evaluated: {error}")


def check_server(
    binary: Path, alerts: dict[str, dict[str, Any]], records: dict[str, str], dashboard: dict[str, Any]
) -> None:
    redis = ROOT / ".engines" / "redis-server"
    with tempfile.TemporaryDirectory(prefix="colloquy-prometheus.") as name:
        folder, redis_port = Path(name), free_port()
        command = (redis, "--bind", "127.0.0.1", "--port", str(redis_port), "--save", "")
        with Program(folder, "redis", *command) as cache:
            cache.wait_for(redis_port)
            colloquy = watched(binary, folder, redis_port)
            with colloquy.serve() as server:
                prometheus = Prometheus(folder, f"{server.connection.host}:{server.connection.port}")
                with prometheus.program:
                    prometheus.program.wait_for(prometheus.port)
                    look(server, colloquy, prometheus, alerts, records, dashboard)


def look(
    server: Server,
    colloquy: Colloquy,
    prometheus: Prometheus,
    alerts: dict[str, dict[str, Any]],
    records: dict[str, str],
    dashboard: dict[str, Any],
) -> None:
    talk(server, "s-0")
    break_archive(server, colloquy.archive, "s-0")
    shown = metrics(server)
    linted = subprocess.run(["promtool", "check", "metrics"], input=shown, capture_output=True, text=True)
    check(linted.returncode == 0, f"promtool check metrics: {linted.stdout}{linted.stderr}".strip())
    series = read_metrics(shown)
    for who, expression in expressions(alerts, records, dashboard):
        check_names(who, expression, series, OWN_METRICS | set(records))
    # This check holds one open.
    check("\ncolloquy_connections 0\n" not in shown, "colloquy_connections is 0 while a connection is open")

    # Rates need two scrapes with something in between; and the answers to the last are evaluated a second later.
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    conversations = 0
    while (missing := prometheus.empty(dashboard)) and time.monotonic() < deadline:
        conversations += 1
        talk(server, f"s-{conversations}")
    for fault in missing:
        check(False, fault)
    prometheus.check_rules()


def main() -> None:
    alerts, records = load_rules()
    dashboard = json.loads(DASHBOARD.read_text())
    check_alerts(alerts)
    check_limits(records)
    check_dashboard(dashboard)
    try:
        check_server(Path(os.environ["COLLOQUY_TEST_BIN"]), alerts, records, dashboard)
    except Broken as broken:
        check(False, str(broken))
    if faults:
        sys.exit("\n".join(f"prometheus: {fault}" for fault in faults))
    questions = sum(len(panel["targets"]) for panel in panels(dashboard))
    print(f"prometheus: {len(alerts)} alerts and {questions} questions of the dashboard hold against a real server")


if __name__ == "__main__":
    main()
