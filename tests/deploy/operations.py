"""Holds docs/OPERATIONS.md to the code, so that nobody follows a runbook that is wrong.

What is promised: every configuration key stands there with its default and its limits, and no other; every alert of
deploy/prometheus/alerts.yml has a heading, and every such heading an alert; commands, flags, `COLLOQUY_` variables, metrics
and lines of the log that it names exist, and every metric that a server shows is named; links lead somewhere; the
arithmetic of its last section comes out; and the drills run and print what they are said to print.

Every fault is told, with its line; the exit code is 1 if there is any.
"""

import contextlib
import functools
import itertools
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/OPERATIONS.md"
BINARY = os.environ["COLLOQUY_TEST_BIN"]
START_SECONDS_MAX = 30
COMMAND_SECONDS_MAX = 60
DRILL_SECONDS_MAX = 120
# How far a figure may be from what its formula gives: figures are shown with three digits.
ROUNDING = 0.006

TEXT = PAGE.read_text()
DEFAULTS = tomllib.loads((ROOT / "config.default.toml").read_text())
faults: list[str] = []


def blame(place: str | int, what: str) -> None:
    where = f"docs/OPERATIONS.md:{place}" if isinstance(place, int) else place
    faults.append(f"{where}: {what}")


def line_of(offset: int) -> int:
    return TEXT.count("\n", 0, offset) + 1


def anchors(text: str) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    outside_code = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#{1,6} +(.+?) *$", outside_code, re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def section(heading: str) -> str:
    """A second-level section, without its heading; empty where there is none."""
    found = re.search(rf"^## {re.escape(heading)}$\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    if not found:
        blame("docs/OPERATIONS.md", f"the section {heading!r} is gone")
    return found[1] if found else ""


def rows(text: str, columns: int) -> list[list[str]]:
    """The rows of a section's tables that have so many columns, without heads and rules."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if len(cells) == columns and cells[0].startswith("`"):
            found.append(cells)
    return found


def plain(cell: str) -> str:
    return cell.strip("`")


def code_blocks(languages: str) -> list[tuple[int, str]]:
    found = re.finditer(rf"^ *```(?:{languages})\n(.*?)^ *```$", TEXT, re.M | re.S)
    return [(line_of(block.start(1)), block[1]) for block in found]


def check_keys() -> None:
    source = (ROOT / "src/config/mod.rs").read_text()
    units = {"KIB": 1024, "MIB": 1024 * 1024}
    limits = {}
    for key, low, high in re.findall(r"^ +(\w+): \w+ = number\((.+?)\.\.=(.+?)\);", source, re.M):
        numbers = [eval(bound.replace("_", ""), {}, units) for bound in (low, high)]  # noqa: S307, our own source
        limits[key] = "{} to {}".format(*numbers)
    told = rows(section("Every configuration key"), 5)
    names = [plain(row[0]) for row in told]
    if names != list(DEFAULTS):
        for key in DEFAULTS.keys() - set(names):
            blame("the table of keys", f"{key} is missing")
        for key in set(names) - DEFAULTS.keys():
            blame("the table of keys", f"there is no key {key}")
        if set(names) == DEFAULTS.keys():
            blame("the table of keys", "it is not in the order of config.default.toml")
    for key, default, limit, *_ in told:
        key = plain(key)
        if key in DEFAULTS and plain(default) != str(DEFAULTS[key]):
            blame("the table of keys", f"{key} is {DEFAULTS[key]} by default, not {plain(default)}")
        if key in limits and limit != limits[key]:
            blame("the table of keys", f"{key} goes from {limits[key]}, not {limit}")


def check_settings() -> None:
    """Keys and variables in the text: `key = value`, COLLOQUY_KEY."""
    for found in re.finditer(r"COLLOQUY_([A-Z0-9_]+)", TEXT):
        if found[1].lower() not in DEFAULTS:
            blame(line_of(found.start()), f"there is no variable {found[0]}")
    for found in re.finditer(r"`([a-z0-9_]+) = [^`]+`", TEXT):
        if found[1] not in DEFAULTS:
            blame(line_of(found.start()), f"there is no key {found[1]}")
    # What begins as a key does must be one, but for a collection and the figures of the capacity table.
    stems = "append|archive|bodies|body|cache|connections|import|mongo|request|session|shutdown|sqlite|stalled"
    others = {"archive_runs"} | {plain(row[0]) for row in rows(section("Capacity on paper"), 4)}
    for found in re.finditer(rf"`((?:{stems})_[a-z0-9_]+)`", TEXT):
        # The name of an index, and columns of segments, are none of ours.
        if found[1] not in DEFAULTS and found[1] not in others | {"session_order_type", "session_id"}:
            blame(line_of(found.start()), f"there is no key {found[1]}")


def check_alerts() -> None:
    path = ROOT / "deploy/prometheus/alerts.yml"
    if not path.exists():
        blame("deploy/prometheus/alerts.yml", "it is not there")
        return
    here = anchors(TEXT)
    names = set()
    for group in yaml.safe_load(path.read_text())["groups"]:
        for alert in (rule for rule in group["rules"] if "alert" in rule):
            name = alert["alert"]
            names.add(name)
            runbook = alert.get("annotations", {}).get("runbook", "")
            if not runbook.endswith(f"docs/OPERATIONS.md#{name.lower()}"):
                blame("deploy/prometheus/alerts.yml", f"the runbook of {name} is {runbook!r}")
            if here.count(name.lower()) != 1:
                blame("docs/OPERATIONS.md", f"{here.count(name.lower())} headings {name}, where one is wanted")
            severity = alert.get("labels", {}).get("severity", "")
            told = re.search(rf"^### {name}$\n+\*\*(\w+)\.\*\*", TEXT, re.M)
            if told and told[1].lower() != severity:
                blame("docs/OPERATIONS.md", f"{name} is a {severity}, not a {told[1].lower()}")
    for heading in re.findall(r"^### (\w+)$", section("Alerts"), re.M):
        if heading not in names:
            blame("docs/OPERATIONS.md", f"there is no alert {heading}")


@functools.cache
def help_of(words: tuple[str, ...]) -> str:
    """What `colloquy WORDS --help` says."""
    done = subprocess.run([BINARY, *words, "--help"], capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX)
    return done.stdout


def check_command(line: int, command: str) -> None:
    words = [word for word in command.split() if re.fullmatch(r"[\w./:=@-]+", word)]
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    path: tuple[str, ...] = ()
    for word in (word for word in words[1:] if re.fullmatch(r"[a-z]+", word)):
        subcommands = re.findall(r"^  ([a-z]+) ", help_of(path).split("Options:")[0], re.M)
        if word in subcommands:
            path += (word,)
        elif subcommands:
            blame(line, f"there is no command {' '.join(['colloquy', *path, word])}")
            return
    for option in options:
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(path)):
            blame(line, f"{' '.join(['colloquy', *path])} knows no {option}")


def check_commands() -> None:
    for start, block in code_blocks("sh"):
        for number, line in enumerate(block.splitlines()):
            if found := re.match(r" *(colloquy [^#|>]*)", line):
                check_command(start + number, found[1])
    prose = re.sub(r"^ *```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), TEXT, flags=re.M | re.S)
    for found in re.finditer(r"`(colloquy [a-z-][^`]*)`", prose):
        check_command(prose.count("\n", 0, found.start()) + 1, found[1])
    for found in re.finditer(r"`((?:archive) [a-z]+)`", prose):
        check_command(prose.count("\n", 0, found.start()) + 1, "colloquy " + found[1])


def check_links() -> None:
    for found in re.finditer(r"\]\(([^)\s]+)\)", TEXT):
        target, _, anchor = found[1].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (PAGE.parent / target).resolve() if target else PAGE
        if not path.exists():
            blame(line_of(found.start()), f"{found[1]} leads nowhere")
        elif anchor and anchor not in anchors(path.read_text()):
            blame(line_of(found.start()), f"{found[1]}: there is no such heading")
    for found in re.finditer(r"`((?:src|tests|deploy|k8s)/[\w./-]+)`", TEXT):
        if not (ROOT / found[1]).exists():
            blame(line_of(found.start()), f"there is no {found[1]}")


def sources() -> str:
    return "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.rs")))


def check_log_lines() -> None:
    code = sources()
    found = re.search(r"^\| line \| means \|\n(.*?)\n\n", section("First look at night"), re.M | re.S)
    lines = rows(found[1], 2) if found else []
    if not lines:
        blame("docs/OPERATIONS.md", "the table of log lines is gone")
    for cell, meaning in lines:
        for words in [plain(cell), *re.findall(r"`(the cache [^`]+)`", meaning)]:
            if words not in code:
                blame("the table of log lines", f"nothing logs {words!r}")


def check_problems() -> None:
    """Codes of failures, which stand behind their status: 503 `overloaded`."""
    codes = re.findall(r' = (\d{3}) "([a-z-]+)"', (ROOT / "src/api/problem.rs").read_text())
    for found in re.finditer(r"\b([45]\d\d) `([a-z-]+)`", TEXT):
        if (found[1], found[2]) not in codes:
            blame(line_of(found.start()), f"nothing is answered with {found[1]} and {found[2]}")


def colloquy_environment(folder: pathlib.Path) -> dict[str, str]:
    """Without settings of whoever runs this, and with `colloquy` on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COLLOQUY_", "OTEL_"))}
    programs = folder / "bin"
    programs.mkdir()
    (programs / "colloquy").symlink_to(BINARY)
    return kept | {"PATH": f"{programs}:{kept['PATH']}"}


def scrape() -> str:
    """What a server on the embedded default shows at /metrics, once it was asked for something."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        address = folder / "address"
        with (folder / "log").open("w") as log:
            command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--address-file", str(address)]
            server = subprocess.Popen(command, cwd=folder, env=colloquy_environment(folder), stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not address.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the server did not start:\n" + (folder / "log").read_text())
                time.sleep(0.05)
            url = address.read_text()
            json = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{url}/v1/sessions", b'{"sessionId":"one"}', json)).close()
            event = b'{"eventId":"one","type":"system","payload":{}}'
            urllib.request.urlopen(urllib.request.Request(f"{url}/v1/sessions/one/events", event, json)).close()
            with urllib.request.urlopen(f"{url}/metrics") as answer:
                return answer.read().decode()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(START_SECONDS_MAX)


def check_metrics() -> None:
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape(), re.M))
    instruments = re.findall(r'"((?:colloquy|http\.server|db\.client)\.[a-z_.]+)"', sources())
    # As Prometheus shows them: not everything is there on the embedded default.
    shown = {name.replace(".", "_") + suffix for name in instruments for suffix in ("", "_total", "_seconds")} | types.keys()
    table = rows(section("Telemetry"), 5)
    told = {plain(row[0]): row for row in table}
    for name in types.keys() - told.keys():
        blame("the table of metrics", f"{name} is missing")
    for name, row in told.items():
        if name in types and row[1] != types[name]:
            blame("the table of metrics", f"{name} is a {types[name]}, not a {row[1]}")
    pattern = r"\b(?:colloquy|http_server|db_client|process)_[a-z_]+[a-z]\b(?!\.)"
    for found in re.finditer(pattern, TEXT):
        name = re.sub(r"_(bucket|sum|count)$", "", found[0])
        if name not in shown:
            blame(line_of(found.start()), f"there is no metric {name}")
        elif name not in told:
            blame(line_of(found.start()), f"{name} is not in the table of metrics")


def number(cell: str) -> float | None:
    try:
        return float(cell.replace(",", ""))
    except ValueError:
        return None


def check_arithmetic() -> None:
    known = {key: value for key, value in DEFAULTS.items() if isinstance(value, int)} | {"ceil": math.ceil}
    given = dict(known)
    computed = 0
    for name, figure, _, origin in rows(section("Capacity on paper"), 4):
        name, value = plain(name), number(figure)
        if value is None:
            blame("the capacity table", f"{name} is {figure!r}, which is no number")
            continue
        formula = re.match(r"`([^`]*[+*/×-][^`]*)`", origin)
        known[name] = value
        if not formula:
            continue
        try:
            exact = eval(formula[1].replace("×", "*"), {"__builtins__": {}}, known)  # noqa: S307, our own page
        except Exception as error:  # Whatever is wrong with it, it is a fault of the page.
            blame("the capacity table", f"{name}: {formula[1]}: {error}")
            continue
        computed += 1
        if abs(exact - value) > ROUNDING * abs(exact):
            blame("the capacity table", f"{name} = {formula[1]} = {exact:.6g}, not {figure}")
        # Sums go on with the exact one, so that roundings don't add up.
        known[name] = exact
    if computed < 20 or given.keys() & {plain(row[0]) for row in rows(section("Capacity on paper"), 4)}:
        blame("the capacity table", f"{computed} formulas were found, or a figure has the name of a key")


def alike(text: str) -> str:
    """What may differ from run to run, made the same: times, durations, sizes of files."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"took [\d.]+ s", "took SECONDS s", text)
    return re.sub(r"written [\d.]+ (B|KiB|MiB)", "written BYTES", text).strip()


def run_drill(commands: list[str]) -> list[str]:
    """What each command printed, in one shell and a folder of its own."""
    end = "--- the end of a step ---"
    script = "".join(f"{command}\necho '{end}'\n" for command in commands)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        environment = colloquy_environment(folder)
        shutil.copytree(ROOT / "examples", folder / "examples")
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        killer = threading.Timer(DRILL_SECONDS_MAX, os.killpg, [shell.pid, signal.SIGKILL])
        killer.start()
        printed, _ = shell.communicate()
        killer.cancel()
        # A server that the drill began, should it have failed to stop it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    return printed.split(end + "\n")[:-1]


def check_drills() -> None:
    drills = list(re.finditer(r"<!-- drill:begin -->\n```console\n(.*?)```\n<!-- drill:end -->", TEXT, re.S))
    if len(drills) != 3:
        blame("docs/OPERATIONS.md", f"{len(drills)} drills, where three are wanted")
    for drill in drills:
        steps = [step.partition("\n") for step in re.split(r"^\$ ", drill[1], flags=re.M)[1:]]
        outputs = run_drill([command for command, _, _ in steps])
        for (command, _, expected), printed in itertools.zip_longest(steps, outputs, fillvalue=""):
            if alike(printed) != alike(expected):
                line = line_of(TEXT.index("$ " + command, drill.start()))
                blame(line, f"`{command}` printed\n{printed}where the page has\n{expected}")
                break


CHECKS = [
    check_keys,
    check_settings,
    check_alerts,
    check_commands,
    check_links,
    check_log_lines,
    check_problems,
    check_metrics,
    check_arithmetic,
    check_drills,
]
for check in CHECKS:
    before = len(faults)
    check()
    print(f"{check.__name__.removeprefix('check_'):10} {'ok' if len(faults) == before else 'FAILED'}", flush=True)
if faults:
    sys.exit("\n" + "\n".join(faults))
