"""Ties docker-compose.yml and the files it mounts to each other and to the binary.

    compose.py context FOLDER         copies what deploy/Dockerfile copies, as far as .dockerignore lets it
    compose.py check BINARY COMPOSE   COMPOSE is what `docker-compose config` made of docker-compose.yml

A file is believed in nothing: a name in one is looked up in the other, a port in a probe is one that somebody listens on,
the configuration is accepted by the binary, which then serves with it and is probed as a container would be. Every fault
is listed, one a line, and the status is 1.
"""

import fnmatch
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = tomllib.loads((ROOT / "config.default.toml").read_text())
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]

PATIENCE_S = 20
STOP_MARGIN_MS = 5_000
STORE_MS_MAX = 40_000
# What images listen on where their command does not say.
IMAGE_PORTS = {"redis": {6379}, "prom/prometheus": {9090}, "grafana/grafana": {3000}}
# Its image has nothing that could ask.
WITHOUT_HEALTH = {"otel-collector"}
PUBLISHED = {"nginx", "prometheus", "grafana"}
# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, as far as colloquy honours it
OTEL_VARIABLES = {
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    *(f"OTEL_{signal}_EXPORTER" for signal in ("TRACES", "METRICS", "LOGS")),
    *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in ("TRACES", "METRICS", "LOGS")),
}

faults = []


def expect(holds, fault):
    if not holds:
        faults.append(fault)
    return holds


# The Dockerfile


class Dockerfile:
    """The instructions of the last stage, and all that is copied from the context."""

    def __init__(self, text):
        text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
        instructions = [line.split(None, 1) for line in text.splitlines() if line.strip()]
        self.copied = []
        for name, rest in instructions:
            words = rest.split()
            if name == "COPY" and not any(word.startswith("--from") for word in words):
                self.copied += [word for word in words[:-1] if not word.startswith("--")]
        last = max(at for at, (name, _) in enumerate(instructions) if name == "FROM")
        self.bases = [rest.split("=", 1)[1] for name, rest in instructions[:last] if name == "ARG" and "=" in rest]
        self.stage = instructions[last:]

    def one(self, name):
        found = [rest for instruction, rest in self.stage if instruction == name]
        return found[-1] if found else ""

    def env(self):
        return dict(pair.split("=", 1) for pair in self.one("ENV").split())

    def health(self):
        return json.loads(self.one("HEALTHCHECK").split(" CMD ", 1)[1])


DOCKERFILE = Dockerfile((ROOT / "deploy/Dockerfile").read_text())


def copy_context(folder):
    """What the build would find: cargo then says whether it is enough."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    folder.mkdir()
    for name in DOCKERFILE.copied:
        source = ROOT / name
        if not expect(source.exists(), f"Dockerfile copies {name}, which is not there"):
            continue
        ignored = False
        for rule in rules:
            if fnmatch.fnmatch(name, rule.lstrip("!")):
                ignored = not rule.startswith("!")
        if expect(not ignored, f".dockerignore keeps {name} from the build, which copies it"):
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    for source in folder.glob("src/**/*.rs"):
        for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
            where = source.relative_to(folder)
            expect((source.parent / name).exists(), f"{where} includes {name}, which Dockerfile does not copy")


# docker-compose.yml


class Service:
    def __init__(self, name, spec):
        self.name, self.spec = name, spec
        self.image, _, self.tag = spec["image"].rpartition(":")
        self.is_colloquy = self.image == "colloquy"
        self.is_once = spec.get("restart") == "no"
        own = {key: str(value) for key, value in (spec.get("environment") or {}).items()}
        self.env = {**DOCKERFILE.env(), **own} if self.is_colloquy else own
        self.command = [str(word) for word in spec.get("command") or []]
        self.is_server = self.is_colloquy and not self.is_once
        self.depends_on = {name: on["condition"] for name, on in (spec.get("depends_on") or {}).items()}

    def key(self, key):
        return self.env.get(f"COLLOQUY_{key.upper()}", DEFAULTS.get(key))

    def has_health(self):
        check = self.spec.get("healthcheck")
        return self.is_colloquy if check is None else not check.get("disable")

    def health(self):
        return [str(word) for word in self.spec.get("healthcheck", {}).get("test", [])]

    def mounts(self):
        """(source, target, mode) of each."""
        return [(mount.split(":") + ["rw"])[:3] for mount in self.spec.get("volumes", [])]

    def ports(self):
        """What it listens on."""
        if self.is_server:
            return {int(self.key("listen").rsplit(":", 1)[1])}
        if self.image == "nginx":
            return {int(port) for port in re.findall(r"(?m)^listen (?:\S+:)?(\d+)", read("deploy/nginx/listen.conf"))}
        if self.name == "otel-collector":
            return {
                int(end["endpoint"].rsplit(":", 1)[1]) for end in collector()["receivers"]["otlp"]["protocols"].values()
            }
        words = " ".join(self.command)
        return {int(port) for port in re.findall(r"-(?:-|s3\.)port[ =](\d+)", words)} or IMAGE_PORTS.get(
            self.image, set()
        )


def read(path):
    return (ROOT / path).read_text()


def collector():
    return yaml.safe_load(read("deploy/otel/collector.yaml"))


class Deployment:
    def __init__(self, compose, binary):
        self.spec = yaml.safe_load(compose)
        self.binary = binary
        self.services = {name: Service(name, spec) for name, spec in self.spec["services"].items()}
        self.all = list(self.services.values())
        self.servers = {service.name: service for service in self.all if service.is_server}

    def reaches(self, who, address):
        """`host:port` is a service, and it listens there."""
        host, _, port = address.partition(":")
        service = self.services.get(host)
        if expect(service, f"{who} names {address}, which is no service"):
            expect(
                int(port) in service.ports(), f"{who} names {address}, but {host} listens on {sorted(service.ports())}"
            )

    def images(self):
        tags = {}
        for service in self.all:
            image = f"{service.name}: the image {service.spec['image']}"
            expect(re.search(r"\d+\.\d+", service.tag), f"{image} is not pinned to a version")
            expect(
                tags.setdefault(service.image, service.tag) == service.tag, f"{image} is of another version elsewhere"
            )
        expect(
            tags.get("colloquy") == VERSION,
            f"the image of colloquy is {tags.get('colloquy')}, Cargo.toml says {VERSION}",
        )
        label = f'image.version="{VERSION}"'
        expect(label in DOCKERFILE.one("LABEL"), f"Dockerfile does not have {label}")
        for base in DOCKERFILE.bases:
            tag = base.rpartition(":")[2]
            expect(tag != base and tag != "latest", f"Dockerfile's base {base} is not pinned")
        builders = [service.name for service in self.all if "build" in service.spec]
        expect(len(builders) == 1, f"one service builds the image, so that it is compiled once, and not {builders}")

    def hardening(self):
        for service in self.all:
            spec = service.spec
            expect(spec.get("read_only"), f"{service.name}: its root is not read-only")
            expect(spec.get("cap_drop") == ["ALL"], f"{service.name}: it keeps capabilities")
            expect("no-new-privileges:true" in spec.get("security_opt", []), f"{service.name}: it may gain privileges")
            published = spec.get("ports", [])
            expect(not published or service.name in PUBLISHED, f"{service.name}: its ports are published")
            for port in (str(port).removesuffix("/tcp") for port in published):
                host, _, inside = port.rpartition(":")
                expect(host.startswith("127.0.0.1:"), f"{service.name}: {port} can be reached from other machines")
                expect(int(inside) in service.ports(), f"{service.name}: nobody listens on the published port {inside}")
        user = DOCKERFILE.one("USER").split(":")[0]
        expect(user.isdecimal() and user != "0", f"Dockerfile's user is {user!r}, not a number other than 0")

    def mounts(self):
        volumes = set(self.spec.get("volumes") or {})
        for service in self.all:
            for source, target, mode in service.mounts():
                if source.startswith("/"):
                    path = os.path.relpath(source, ROOT)
                    expect(
                        Path(source).exists(), f"{service.name}: {path}, mounted at {target}, is not in the repository"
                    )
                    expect(mode == "ro", f"{service.name}: {path} is not mounted read-only")
                else:
                    expect(source in volumes, f"{service.name}: the volume {source} is not declared")

    def start_order(self):
        awaited = set()
        for service in self.all:
            for name, condition in service.depends_on.items():
                on = self.services[name]
                what = f"{service.name} waits for {name} to"
                if condition == "service_healthy":
                    expect(on.has_health(), f"{what} be healthy, but it has no health check")
                    expect(not on.is_once, f"{what} be healthy, but it ends")
                if condition == "service_completed_successfully":
                    awaited.add(name)
                    expect(on.is_once, f"{what} complete, but it is restarted")
            if not service.is_once:
                has = service.has_health() or service.name in WITHOUT_HEALTH
                expect(has, f"{service.name}: it has no health check")
        for service in self.all:
            # `up --wait` takes a container that ended for a failure, unless somebody waits for it to end.
            expect(not service.is_once or service.name in awaited, f"{service.name}: nobody waits for it to complete")

    def health_checks(self):
        for service in self.all:
            words = service.health()
            for port in re.findall(r"127\.0\.0\.1:(\d+)", " ".join(words)):
                expect(
                    int(port) in service.ports(),
                    f"{service.name}: its health check asks port {port}; nobody listens there",
                )
            if "--port" in words:
                port = int(words[words.index("--port") + 1])
                expect(
                    port in service.ports(), f"{service.name}: its health check asks port {port}; nobody listens there"
                )

    def commands(self):
        entrypoint = json.loads(DOCKERFILE.one("ENTRYPOINT"))
        checks = [("Dockerfile's CMD", entrypoint + json.loads(DOCKERFILE.one("CMD")))]
        checks.append(("Dockerfile's HEALTHCHECK", DOCKERFILE.health()))
        for service in self.all:
            if service.is_colloquy:
                checks.append((service.name, entrypoint + service.command))
                if service.health()[:1] == ["CMD"]:
                    checks.append((f"{service.name}'s health check", service.health()[1:]))
        for who, (program, *words) in checks:
            expect([program] == entrypoint, f"{who} runs {program}, not {entrypoint[0]}")
            path = [word for word in words if not word.startswith("-")]
            help_ = subprocess.run([self.binary, *path, "--help"], capture_output=True, text=True)
            if expect(help_.returncode == 0, f"{who}: there is no `colloquy {' '.join(path)}`"):
                for flag in (word.split("=")[0] for word in words if word.startswith("-")):
                    expect(re.search(rf"{flag}\b", help_.stdout), f"{who}: `colloquy {' '.join(path)}` has no {flag}")

    def configuration(self):
        for service in self.all:
            for name in service.env:
                if name.startswith("COLLOQUY_"):
                    expect(service.is_colloquy, f"{service.name}: {name} means nothing to it")
                    expect(name[9:].lower() in DEFAULTS, f"{service.name}: {name} is not a key of config.default.toml")
                if name.startswith("OTEL_"):
                    expect(name in OTEL_VARIABLES, f"{service.name}: colloquy does not know {name}")
            if service.is_colloquy:
                wrong = self.refusal(service.env)
                expect(wrong is None, f"{service.name}: {wrong}")
        # The check would see it.
        expect(
            self.refusal({**DOCKERFILE.env(), "COLLOQUY_STORE": "mongodb://m/c", "COLLOQUY_LISTEN": "nowhere"}),
            "nothing is wrong enough",
        )
        shared = [
            {
                name: value
                for name, value in server.env.items()
                if name.startswith(("COLLOQUY_", "AWS_")) and "ARCHIVE_EVERY" not in name
            }
            for server in self.servers.values()
        ]
        expect(all(env == shared[0] for env in shared), "the servers do not share all settings but archive_every")
        archivers = [name for name, server in self.servers.items() if server.key("archive_every") != "off"]
        expect(archivers == ["archiver"], f"the service that archives is `archiver`, not {archivers}")

    def refusal(self, env):
        """What the binary says is wrong with the configuration, or None."""
        # It reaches no backend: the configuration is checked first, and then a store that is MongoDB is refused (1).
        env = {name: value for name, value in env.items() if not name.startswith("OTEL_")}
        run = subprocess.run([self.binary, "compact"], env=env, capture_output=True, text=True, timeout=PATIENCE_S)
        if run.returncode == 1 and "only the embedded store" in run.stderr:
            return None
        return run.stderr.strip() or f"`colloquy compact` ended with {run.returncode}"

    def backends(self):
        for service in self.all:
            if not service.is_colloquy:
                continue
            for key in ("store", "cache", "archive_s3_endpoint"):
                self.reaches(f"{service.name}'s {key}", re.sub(r"^\w+://([^/]+).*$", r"\1", service.key(key)))
            telemetry = service.env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").removeprefix("http://")
            self.reaches(f"{service.name}'s telemetry", telemetry)
            port = collector()["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rsplit(":", 1)[1]
            expect(
                telemetry.endswith(f":{port}"),
                f"{service.name}: telemetry goes to {telemetry}, OTLP over HTTP is {port}",
            )
            bucket = service.key("archive").removeprefix("s3://").split("/")[0]
            (identity,) = json.loads(read("deploy/seaweedfs/s3.json"))["identities"]
            pair = {"accessKey": service.env["AWS_ACCESS_KEY_ID"], "secretKey": service.env["AWS_SECRET_ACCESS_KEY"]}
            expect(identity["credentials"] == [pair], f"{service.name}: its S3 credentials are not those of s3.json")
            allowed = {action.split(":")[1] for action in identity["actions"]}
            expect(allowed == {bucket}, f"{service.name}: s3.json allows {allowed}, and the archive is in {bucket}")
            made, master = self.services["seaweedfs-init"].command
            expect(made == bucket, f"{service.name}: the archive is in {bucket}, and seaweedfs-init makes {made}")
            expect(master.split(":")[0] == "seaweedfs", f"seaweedfs-init asks {master}")

    def mongodb(self):
        sets = dict(re.findall(r'_id: "([\w-]+)",.*host: "([^"]+)"', read("deploy/mongodb/init.js")))
        for name, host in sets.items():
            self.reaches("mongodb/init.js", host)
            command = self.services[host.split(":")[0]].command
            expect(
                command[command.index("--replSet") + 1] == name,
                f"mongodb/init.js calls {host} {name}; its --replSet is another",
            )
        servers = {service.name for service in self.all if "--replSet" in service.command}
        expect(
            {host.split(":")[0] for host in sets.values()} == servers,
            f"mongodb/init.js knows {sets}, and there are {servers}",
        )
        command = self.services["mongos"].command
        expect(f"config/{sets['config']}" in command, "mongos has another --configdb than mongodb/init.js initiates")
        (router,) = re.findall(r'router = "mongodb://([^/]+)/', read("deploy/mongodb/init.js"))
        self.reaches("mongodb/init.js", router)

    def proxy(self):
        conf = read("deploy/nginx/nginx.conf")
        replicas = re.findall(r"(?m)^server (\S+)", read("deploy/nginx/upstream.conf"))
        for replica in replicas:
            self.reaches("nginx/upstream.conf", replica)
        behind = {replica.split(":")[0] for replica in replicas}
        expect(behind == set(self.servers) - {"archiver"}, f"nginx/upstream.conf has {behind}, not the replicas")
        server = self.servers["colloquy-1"]

        def ms(directive, part=conf):
            return int(re.search(rf"(?m)^\s*{directive} (\d+)s;", part)[1]) * 1000

        drain, grace = int(server.key("shutdown_drain_ms") or 0), int(server.key("shutdown_grace_ms"))
        idle = ms("keepalive_timeout", conf[conf.index("upstream colloquy") :])
        for key, limit in (("idle_connection_ms", int(server.key("idle_connection_ms"))), ("shutdown_drain_ms", drain)):
            expect(idle < limit, f"nginx keeps idle connections {idle} ms, which is not below {key} ({limit})")
        read_ms = ms("proxy_read_timeout")
        stalled = int(server.key("stalled_connection_ms"))
        expect(STORE_MS_MAX < read_ms < stalled, f"nginx waits {read_ms} ms, not between {STORE_MS_MAX} and {stalled}")
        body = int(re.search(r"client_max_body_size (\d+)m;", conf)[1]) << 20
        expect(body > int(server.key("body_bytes_max")), f"nginx takes bodies of {body} bytes, not more than colloquy")
        for service in self.servers.values():
            stop = int(service.spec["stop_grace_period"].removesuffix("s")) * 1000
            needed = drain + grace + STOP_MARGIN_MS
            expect(stop >= needed, f"{service.name} is killed after {stop} ms, and may need {needed}")

    def monitoring(self):
        prometheus = yaml.safe_load(read("deploy/prometheus/prometheus.yml"))
        (job,) = [job for job in prometheus["scrape_configs"] if job["job_name"] == "colloquy"]
        targets = [target for static in job["static_configs"] for target in static["targets"]]
        for target in targets:
            self.reaches("prometheus.yml", target)
        expect(
            {target.split(":")[0] for target in targets} == set(self.servers),
            f"prometheus.yml scrapes {targets}, not every server",
        )
        expect(job.get("metrics_path", "/metrics") == "/metrics", "prometheus.yml scrapes another path than /metrics")
        mounted = {target for _, target, _ in self.services["prometheus"].mounts()}
        for rules in prometheus["rule_files"]:
            expect(
                f"/etc/prometheus/{rules}" in mounted, f"prometheus.yml reads {rules}, which is not mounted beside it"
            )
        for provider in ROOT.glob("deploy/grafana/provisioning/dashboards/*.y*ml"):
            for entry in yaml.safe_load(provider.read_text())["providers"]:
                path = entry["options"]["path"]
                targets = [target for _, target, _ in self.services["grafana"].mounts()]
                expect(path in targets, f"grafana looks for dashboards in {path}, where nothing is mounted")
        for source in ROOT.glob("deploy/grafana/provisioning/datasources/*.y*ml"):
            for entry in yaml.safe_load(source.read_text())["datasources"]:
                self.reaches(source.name, entry["url"].removeprefix("http://"))

    def telemetry(self):
        config = collector()
        used = {kind: set() for kind in ("receivers", "processors", "exporters")}
        for name, pipeline in config["service"]["pipelines"].items():
            for kind, names in pipeline.items():
                used[kind] |= set(names)
            first = pipeline["processors"][0]
            expect(
                first == "memory_limiter",
                f"collector.yaml: {name} begins with {first}, and nothing limits what waits before it",
            )
        used["extensions"] = set(config["service"]["extensions"])
        for kind, names in used.items():
            expect(
                names == set(config[kind]),
                f"collector.yaml: {kind} that are defined, {sorted(config[kind])}, and used, {sorted(names)}",
            )
        expect(
            set(config["service"]["pipelines"]) == {"traces", "metrics", "logs"},
            "collector.yaml: a signal has no pipeline",
        )
        path = self.services["otel-collector"].command[0].removeprefix("--config=")
        mounted = [target for _, target, _ in self.services["otel-collector"].mounts()]
        expect(path in mounted, f"the collector reads {path}, where nothing is mounted")

    def probes(self):
        """The embedded server of the image, probed as its container would be."""
        with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
            free.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % free.getsockname()[1]
            free.close()
            env = {**DOCKERFILE.env(), "COLLOQUY_LISTEN": address}
            server = subprocess.Popen(
                [self.binary, *json.loads(DOCKERFILE.one("CMD"))], env=env, cwd=folder, stderr=subprocess.DEVNULL
            )
            checks = [DOCKERFILE.health()[1:]] + [one.health()[2:] for one in self.servers.values() if one.health()]
            try:
                deadline = time.monotonic() + PATIENCE_S
                while not self.answers(address, "/readyz") and server.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                for path in ("/healthz", "/readyz", "/metrics"):
                    expect(self.answers(address, path), f"the server does not answer {path}")
                self.ask_health(checks, env, 0)
            finally:
                server.send_signal(signal.SIGTERM)
                status = server.wait(PATIENCE_S)
            expect(status == 0, f"the server ended with {status}")
            self.ask_health(checks, env, 1)

    def ask_health(self, checks, env, wanted):
        for words in checks:
            status = subprocess.run([self.binary, *words], env=env, capture_output=True, timeout=PATIENCE_S).returncode
            state = "up" if wanted == 0 else "gone"
            expect(status == wanted, f"`colloquy {' '.join(words)}` ends with {status} where the server is {state}")

    def answers(self, address, path):
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as answer:
                return answer.status == 200
        except OSError:
            return False


def main():
    what, *arguments = sys.argv[1:]
    if what == "context":
        copy_context(Path(arguments[0]))
    else:
        binary, compose = arguments
        deployment = Deployment(Path(compose).read_text(), binary)
        checks = "images hardening mounts start_order health_checks commands configuration backends mongodb".split()
        checks += "proxy monitoring telemetry probes".split()
        for check in checks:
            try:
                getattr(deployment, check)()
            except (LookupError, ValueError, TypeError, AttributeError, OSError, subprocess.TimeoutExpired) as error:
                expect(False, f"{check}: it can't be checked: {error!r}")
        if not faults:
            print(f"compose: {len(checks)} checks of {len(deployment.all)} services found nothing")
    for fault in faults:
        print(f"compose: {fault}", file=sys.stderr)
    sys.exit(bool(faults))


main()
