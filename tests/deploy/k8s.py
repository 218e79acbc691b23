"""Ties the manifests that kustomize built to Kubernetes and to the binary: k8s.py BINARY NAME=FILE...

A manifest is believed in nothing. Each object is valid for the oldest and the newest Kubernetes that
kubernetes-validate knows among those we support; each name that one object uses is another's; the configuration is
accepted by the binary, which then serves with it, is probed as a kubelet would, and is told to stop. Every fault is
listed, one a line, and the status is 1. What has no schema is a fault, not a thing to pass over.
"""

import base64
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from k8s_schemas import validate
from k8s_security import can_talk, is_hardened, is_restricted

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "k8s" / "README.md"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
DEFAULTS = tomllib.loads((ROOT / "config.default.toml").read_text())

KUBERNETES_OLDEST = "1.31"
# What an overlay for production may not lose without anybody noticing.
REQUIRED_KINDS = {
    "dev": {"StatefulSet", "Namespace", "Job"},
    "production": {"HorizontalPodAutoscaler", "Job", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor"},
}
# What a stopping server gives runs of the archiver: STOP_WAIT_MAX in src/archive/run.rs.
STOP_ARCHIVE_MS = 10_000
STOP_MARGIN_MS = 5_000
SCALE_DOWN_AFTER_S_MIN = 300
MEMORY_BESIDE_LIMITS_BYTES = 256 << 20
PATIENCE_S = 20
SIGNALS = ("TRACES", "METRICS", "LOGS")
# https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, as far as colloquy honours it
OTEL_VARIABLES = {
    *("OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"),
    *(f"OTEL_{signal}_EXPORTER" for signal in SIGNALS),
    *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in SIGNALS),
}


@dataclass
class Container:
    spec: dict
    env: dict[str, str]

    @property
    def is_colloquy(self):
        return self.image == "colloquy"

    @property
    def image(self):
        return self.spec["image"].rsplit("/", 1)[-1].split(":")[0]

    def key(self, key):
        """The value of one of our keys: what the pod is given, or the default."""
        return self.env.get(f"COLLOQUY_{key.upper()}", DEFAULTS.get(key))

    def number(self, key):
        """The same of a key that is a number; a value that is none is the binary's to refuse."""
        value = str(self.key(key))
        return int(value) if value.isdecimal() else DEFAULTS.get(key, 0)

    def port(self, name):
        """The number of a port given by name or number, or None."""
        ports = {port.get("name"): port["containerPort"] for port in self.spec.get("ports", [])}
        return name if name in ports.values() else ports.get(name)


@dataclass
class Pod:
    owner: dict
    labels: dict
    spec: dict
    containers: list[Container] = field(default_factory=list)

    def __str__(self):
        return named(self.owner)


class Overlay:
    def __init__(self, name, text, binary):
        self.name = name
        self.binary = binary
        self.docs = [doc for doc in yaml.safe_load_all(text) if doc]
        self.faults = []

    def check(self):
        for check in CHECKS:
            try:
                check(self)
            except KeyError as missing:
                self.fault(f"{check.__name__} looks for {missing}, which some object does not have")

    def fault(self, what):
        self.faults.append(f"{self.name}: {what}")

    def of(self, *kinds):
        return [doc for doc in self.docs if doc["kind"] in kinds]

    def find(self, kind, name):
        return next((doc for doc in self.of(kind) if doc["metadata"]["name"] == name), None)

    @cached_property
    def pods(self):
        found = []
        for doc in self.docs:
            spec = doc.get("spec", {})
            template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
            if template:
                pod = Pod(doc, template["metadata"].get("labels", {}), template["spec"])
                pod.containers = [
                    Container(container, self.environment(pod, container))
                    for kind in ("initContainers", "containers", "ephemeralContainers")
                    for container in pod.spec.get(kind, [])
                ]
                found.append(pod)
        return found

    @property
    def colloquy(self):
        """Each of our containers, with its pod."""
        return [(pod, container) for pod in self.pods for container in pod.containers if container.is_colloquy]

    @property
    def servers(self):
        return [(pod, c) for pod, c in self.colloquy if pod.owner["kind"] == "Deployment"]

    def selected(self, selector):
        labels = (selector or {}).get("matchLabels", {})
        if set(selector or {}) - {"matchLabels"}:
            self.fault(f"selector {selector} has more than matchLabels, which this check can't follow")
        return [pod for pod in self.pods if labels.items() <= pod.labels.items()]

    def values(self, kind, name):
        """What a ConfigMap or Secret holds: as built or, of the Secret that the operator makes, as documented."""
        doc = self.find(kind, name)
        if doc is None:
            return documented_secret() if (kind, name) == ("Secret", "colloquy") else None
        decoded = {key: base64.b64decode(value).decode() for key, value in doc.get("data", {}).items()} if kind == "Secret" else {}
        return {**doc.get("data", {}), **doc.get("stringData", {}), **decoded}

    def environment(self, pod, container):
        """The environment as the kubelet would make it; what it could not is a fault."""
        env = {}
        where = f"{pod}, container {container['name']}"
        for source in container.get("envFrom", []):
            for ref, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if ref in source:
                    values = self.values(kind, source[ref]["name"])
                    if values is None:
                        self.fault(f"{where}: there is no {kind} {source[ref]['name']}")
                    env.update(values or {})
        for entry in container.get("env", []):
            name, source = entry["name"], entry.get("valueFrom", {})
            if "value" in entry:
                env[name] = re.sub(r"\$\(([A-Z_]+)\)", lambda m: env.get(m[1], m[0]), entry["value"])
                if "$(" in env[name]:
                    self.fault(f"{where}: {name} uses a variable that is not set before it: {env[name]}")
            elif "fieldRef" in source:
                env[name] = source["fieldRef"]["fieldPath"]
            for ref, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if ref in source:
                    value = (self.values(kind, source[ref]["name"]) or {}).get(source[ref]["key"])
                    if value is not None:
                        env[name] = value
                    elif not source[ref].get("optional"):
                        self.fault(f"{where}: {name}: no {kind} {source[ref]['name']} with {source[ref]['key']} is built or documented")
        return env


def named(doc):
    return f"{doc['kind']} {doc['metadata']['name']}"


def block(marker):
    """The code between <!-- marker:begin --> and <!-- marker:end --> of the README."""
    found = re.search(rf"<!-- {marker}:begin -->\s*```\w*\n(.*?)```\s*<!-- {marker}:end -->", README.read_text(), re.S)
    if not found:
        sys.exit(f"k8s: {README} has no block {marker}")
    return textwrap.dedent(found[1])


def documented_secret():
    return dict(line.split("=", 1) for line in block("secret").splitlines() if re.match(r"[A-Z][A-Z_]*=", line))


def is_valid(overlay):
    """Every object has a schema and follows it, in the oldest and in the newest Kubernetes; none is there twice."""
    seen = set()
    for doc in overlay.docs:
        identity = (doc["apiVersion"], doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"])
        if identity in seen:
            overlay.fault(f"{named(doc)} is there twice")
        seen.add(identity)
        for version in (KUBERNETES_OLDEST, kubernetes_validate.latest_version()):
            try:
                validate(doc, version)
            except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                path = ".".join(map(str, getattr(error, "absolute_path", ())))
                overlay.fault(f"{named(doc)} on Kubernetes {version}: {path}: {error.message}")
    for kind in REQUIRED_KINDS.get(overlay.name, set()) - {doc["kind"] for doc in overlay.docs}:
        overlay.fault(f"there is no {kind}")


def is_in_a_restricted_namespace(overlay):
    namespaces = {doc["metadata"]["name"]: doc["metadata"].get("labels", {}) for doc in overlay.of("Namespace")}
    for name, labels in namespaces.items():
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            overlay.fault(f"Namespace {name} does not enforce the restricted Pod Security Standard")
    for doc in overlay.docs:
        if doc["kind"] != "Namespace" and doc["metadata"].get("namespace") not in namespaces:
            overlay.fault(f"{named(doc)} is in no namespace of the overlay")


def names_what_exists(overlay):
    for pod in overlay.pods:
        account = pod.spec.get("serviceAccountName")
        if account and not overlay.find("ServiceAccount", account):
            overlay.fault(f"{pod}: there is no ServiceAccount {account}")
        if any(c.is_colloquy for c in pod.containers) and not account:
            overlay.fault(f"{pod} runs Colloquy without its ServiceAccount")
        claimed = [claim["metadata"]["name"] for claim in pod.owner["spec"].get("volumeClaimTemplates", [])]
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])} | set(claimed)
        for volume in pod.spec.get("volumes", []):
            for source, kind, name in [
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
            ]:
                if source in volume and not overlay.find(kind, volume[source][name]):
                    overlay.fault(f"{pod}: there is no {kind} {volume[source][name]}")
        for container in pod.containers:
            for mount in container.spec.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    overlay.fault(f"{pod}: there is no volume {mount['name']}")
        selector = pod.owner["spec"].get("selector")
        if selector and pod not in overlay.selected(selector):
            overlay.fault(f"{pod} does not select its own pods")
        for spread in pod.spec.get("topologySpreadConstraints", []):
            if overlay.selected(spread["labelSelector"]) != [pod]:
                overlay.fault(f"{pod}: the spread over {spread['topologyKey']} is not over its own pods")
    for doc in overlay.of("StatefulSet"):
        if not overlay.find("Service", doc["spec"]["serviceName"]):
            overlay.fault(f"{named(doc)}: there is no Service {doc['spec']['serviceName']}")
    for service in overlay.of("Service"):
        pods = overlay.selected({"matchLabels": service["spec"]["selector"]})
        if len({str(pod) for pod in pods}) != 1:
            overlay.fault(f"{named(service)} selects {[str(pod) for pod in pods]}, not the pods of one")
        for pod in pods:
            for port in service["spec"]["ports"]:
                if not any(c.port(port.get("targetPort", port["port"])) for c in pod.containers):
                    overlay.fault(f"{named(service)}: {pod} has no port {port.get('targetPort')}")
    for monitor in overlay.of("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        services = [s for s in overlay.of("Service") if labels <= s["metadata"].get("labels", {}).items()]
        for endpoint in monitor["spec"]["endpoints"]:
            if not any(port["name"] == endpoint["port"] for s in services for port in s["spec"]["ports"]):
                overlay.fault(f"{named(monitor)} finds no Service with a port {endpoint['port']}")


def scales_and_survives(overlay):
    """Autoscaling, disruption budgets and rollouts leave replicas to serve."""
    targets = {}
    for scaler in overlay.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        doc = overlay.find(target["kind"], target["name"])
        if doc is None or doc["apiVersion"] != target["apiVersion"]:
            overlay.fault(f"{named(scaler)}: there is no {target['kind']} {target['name']}")
            continue
        targets[named(doc)] = scaler["spec"]["minReplicas"]
        if "replicas" in doc["spec"]:
            overlay.fault(f"{named(doc)} sets replicas, which each apply would take from {named(scaler)}")
        shrink = scaler["spec"].get("behavior", {}).get("scaleDown", {})
        if "policies" not in shrink or shrink.get("stabilizationWindowSeconds", 0) < SCALE_DOWN_AFTER_S_MIN:
            overlay.fault(f"{named(scaler)} scales down faster than load can be believed to be gone, or all at once")
    for budget in overlay.of("PodDisruptionBudget"):
        pods = [str(pod) for pod in overlay.selected(budget["spec"]["selector"])]
        if len(pods) != 1:
            overlay.fault(f"{named(budget)} selects {pods}, not the pods of one")
        elif targets.get(pods[0], 1) < 2 or budget["spec"].get("maxUnavailable") != 1:
            overlay.fault(f"{named(budget)} must let one replica go at a time, of at least two")
    for pod, _ in overlay.servers:
        if pod.owner["spec"]["strategy"].get("rollingUpdate", {}).get("maxUnavailable") != 0:
            overlay.fault(f"{pod}: a rollout takes replicas away before new ones serve")
        topologies = {spread["topologyKey"] for spread in pod.spec.get("topologySpreadConstraints", [])}
        if not {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} <= topologies:
            overlay.fault(f"{pod} is not spread over nodes and zones")
    for job in overlay.of("Job"):
        if "ttlSecondsAfterFinished" not in job["spec"]:
            overlay.fault(f"{named(job)} stays for ever, and is in the way of the next apply")
        if "activeDeadlineSeconds" not in job["spec"]:
            overlay.fault(f"{named(job)} may run for ever")


def agrees_with_config(overlay):
    """The keys are known, shared, and say what a cluster needs. Whether the values hold, the binary says."""
    shared = ["store", "cache", "archive", "cache_prefix", "archive_every", "archive_s3_endpoint", "archive_s3_region"]
    version = run(overlay, ["--version"], {}).stdout.split()[-1]
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE.read_text(), re.M)
    first = overlay.servers[0][1]
    for pod, container in overlay.colloquy:
        for name in container.env:
            if name.startswith("COLLOQUY_") and name.removeprefix("COLLOQUY_").lower() not in DEFAULTS:
                overlay.fault(f"{pod}: {name} is not a key of config.default.toml")
            if name.startswith("OTEL_") and name not in OTEL_VARIABLES:
                overlay.fault(f"{pod}: {name} is not a variable that colloquy honours")
        if [str(pod.spec["securityContext"].get(name)) for name in ("runAsUser", "runAsGroup")] != list(user.groups()):
            overlay.fault(f"{pod} runs as another user than the image is made for, {user[0]}")
        for key in shared:
            if container.key(key) != first.key(key):
                overlay.fault(f"{pod}: {key} differs from the servers'")
        if not container.spec["image"].endswith(f":{version}"):
            overlay.fault(f"{pod}: {container.spec['image']} is not version {version}")
        if not container.key("store").startswith("mongodb"):
            overlay.fault(f"{pod}: the store is not one that many processes can share")
        if container.key("archive") != "none" and not container.key("archive").startswith("s3://"):
            overlay.fault(f"{pod}: the archive is not one that many processes can share")
    rounds = [(pod, c) for pod, c in overlay.colloquy if pod.owner["kind"] == "CronJob" and c.spec["args"] == ["archive", "upkeep"]]
    if bool(rounds) == (first.key("archive_every") != "off"):
        overlay.fault("either a CronJob archives, or the servers do: archive_every says otherwise")
    if rounds and first.key("archive") == "none":
        overlay.fault("a CronJob archives, and there is no archive")
    for pod, container in rounds:
        spec, job = pod.owner["spec"], pod.owner["spec"]["jobTemplate"]["spec"]
        if spec["concurrencyPolicy"] != "Forbid" or "startingDeadlineSeconds" not in spec:
            overlay.fault(f"{pod} must forbid concurrent rounds, and give up one that could not begin in time")
        if job.get("activeDeadlineSeconds", 0) * 1000 <= container.number("archive_lease_ms"):
            overlay.fault(f"{pod} is ended before one lease (archive_lease_ms) is over, or never")


def run(overlay, args, env):
    # Nothing of the caller's environment, and no telemetry to places that are examples.
    env = {"PATH": os.environ["PATH"], **env, "OTEL_SDK_DISABLED": "true"}
    return subprocess.run([overlay.binary, *args], env=env, capture_output=True, text=True, timeout=PATIENCE_S)


# Values are checked although a flag overrides them; so no backend is needed to have all of them checked.
WITHOUT_BACKENDS = ["--set", "cache=none", "--archive", "none", "--store"]


def starts(overlay):
    """The binary accepts the configuration of each pod, and knows its command; and its status for a wrong one is the
    one that Jobs don't try again after."""
    for pod, container in overlay.colloquy:
        with tempfile.TemporaryDirectory(prefix="colloquy-k8s.") as folder:
            checked = run(overlay, ["check", *WITHOUT_BACKENDS, f"sqlite:{folder}/x.db"], container.env)
        if checked.returncode != 0:
            overlay.fault(f"{pod}: the binary refuses its configuration: {' '.join((checked.stderr + checked.stdout).split())}")
        if "command" in container.spec:
            overlay.fault(f"{pod} replaces the image's entrypoint")
        args = container.spec.get("args", [])
        if not args or run(overlay, [*args, "--help"], {}).returncode != 0:
            overlay.fault(f"{pod}: the binary has no command 'colloquy {' '.join(args)}'")
        job = pod.owner["spec"].get("jobTemplate", {}).get("spec", pod.owner["spec"])
        rules = job.get("podFailurePolicy", {}).get("rules", [])
        final = [code for rule in rules if rule["action"] == "FailJob" for code in rule["onExitCodes"]["values"]]
        wrong = run(overlay, [*args, "--set", "no_such_key=1"], {}).returncode
        if "Job" in pod.owner["kind"] and final != [wrong]:
            overlay.fault(f"{pod} gives up at status {final}, and the binary says {wrong} to a wrong configuration")


def serves(overlay):
    """A server with the configuration of the pods answers their probes and Prometheus; told to stop, it is not ready at
    once, and goes on serving for the drain."""
    for pod, container in overlay.servers:
        host, _, port = container.key("listen").rpartition(":")
        if host not in ("0.0.0.0", "[::]"):
            overlay.fault(f"{pod} listens on {host}, where no probe reaches it")
        paths = {}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container.spec.get(probe, {}).get("httpGet", {})
            paths[probe] = get.get("path", "")
            if container.port(get.get("port")) != int(port):
                overlay.fault(f"{pod}: {probe} does not go to port {port}, where the server listens")
        scraped = [endpoint["path"] for monitor in overlay.of("ServiceMonitor") for endpoint in monitor["spec"]["endpoints"]]
        with tempfile.TemporaryDirectory(prefix="colloquy-k8s.") as folder:
            probe_server(overlay, pod, container, Path(folder), paths, scraped)


def probe_server(overlay, pod, container, folder, paths, scraped):
    env = {"PATH": os.environ["PATH"], **container.env, "OTEL_SDK_DISABLED": "true"}
    args = [*container.spec["args"], "--listen", "127.0.0.1:0", "--address-file", f"{folder}/address"]
    with open(folder / "log", "w") as log:
        command = [overlay.binary, *args, *WITHOUT_BACKENDS, f"sqlite:{folder}/x.db"]
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
    try:
        if not until(lambda: (folder / "address").exists() or server.poll() is not None) or server.poll() is not None:
            overlay.fault(f"{pod}: a server with its configuration does not start: {(folder / 'log').read_text()}")
            return
        url = (folder / "address").read_text()
        for path in [*paths.values(), *scraped]:
            if status(url + path) != 200:
                overlay.fault(f"{pod}: GET {path} answers {status(url + path)}, not 200")
        server.send_signal(signal.SIGTERM)
        if not until(lambda: status(url + paths["readinessProbe"]) != 200, seconds=5):
            overlay.fault(f"{pod}: readiness does not fail when the server is told to stop")
        ready, alive = status(url + paths["readinessProbe"]), status(url + paths["livenessProbe"])
        if (ready, alive) != (503, 200):
            overlay.fault(f"{pod}: a stopping server answers {ready} to readiness and {alive} to liveness, not 503 and 200")
        server.send_signal(signal.SIGTERM)
        if not until(lambda: server.poll() is not None, seconds=5):
            overlay.fault(f"{pod}: a second SIGTERM does not end the server")
    finally:
        server.kill()
        server.wait()


def until(condition, seconds=PATIENCE_S):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def status(url):
    """The status of a GET, or what went wrong."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(error)


def leaves_in_time(overlay):
    """The sums of README.md: what a stop may take, what a probe may take, what a request may take of memory."""
    for pod, container in overlay.servers:
        ms = {key: container.number(key) for key in ("shutdown_drain_ms", "shutdown_grace_ms", "mongo_call_ms_max")}
        needed = sum(ms.values()) + ms["mongo_call_ms_max"] + STOP_ARCHIVE_MS + STOP_MARGIN_MS
        granted = pod.spec.get("terminationGracePeriodSeconds", 30) * 1000
        if granted < needed:
            overlay.fault(f"{pod}: a stop may take {needed} ms, and is granted {granted} ms")
        probe = container.spec["readinessProbe"]
        if probe["timeoutSeconds"] * 1000 <= container.number("ready_wait_ms_max"):
            overlay.fault(f"{pod}: the readiness probe gives up before the server has found out (ready_wait_ms_max)")
        noticed = (probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]) * 1000
        if ms["shutdown_drain_ms"] < noticed:
            overlay.fault(f"{pod}: the drain ends after {ms['shutdown_drain_ms']} ms, before probes noticed it ({noticed} ms)")
        held = sum(container.number(k) for k in ("bodies_bytes_max", "append_queue_bytes_max", "archive_footers_bytes_max"))
        if quantity(container.spec["resources"]["limits"]["memory"]) < held + MEMORY_BESIDE_LIMITS_BYTES:
            overlay.fault(f"{pod}: its memory is less than what the configuration lets it hold, {held} bytes, and some beside")


def quantity(text):
    number, unit = re.fullmatch(r"(\d+)([KMG]i)?", text).groups()
    return int(number) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30}[unit]


def documents_what_works():
    """The README's paths are there, and its command for the alerts makes a valid object of them."""
    paths = re.findall(r"\b(?:k8s|deploy|overlays|components)/[\w./-]*\w", README.read_text())
    faults = [f"README: there is no {path}" for path in paths if not any((top / path).exists() for top in (ROOT, ROOT / "k8s"))]
    piped = block("rules").replace("kubectl apply -f -", "cat")
    made = subprocess.run(["bash", "-euo", "pipefail", "-c", piped], cwd=ROOT, capture_output=True, text=True)
    try:
        if made.returncode != 0:
            raise ValueError(made.stderr.strip())
        validate(yaml.safe_load(made.stdout), KUBERNETES_OLDEST)
    except (jsonschema.ValidationError, ValueError, yaml.YAMLError) as error:
        faults.append(f"README: the command for the alerts makes no PrometheusRule: {getattr(error, 'message', error)}")
    return faults


CHECKS = [
    is_valid, is_in_a_restricted_namespace, is_restricted, is_hardened, names_what_exists, scales_and_survives,
    agrees_with_config, starts, serves, leaves_in_time, can_talk,
]  # fmt: skip


def main():
    binary, *built = sys.argv[1:]
    faults = documents_what_works()
    for name, _, file in (pair.partition("=") for pair in built):
        overlay = Overlay(name, Path(file).read_text(), binary)
        overlay.check()
        faults += overlay.faults
        print(f"k8s: {name}: {len(overlay.docs)} objects, {len(overlay.pods)} kinds of pods, {len(overlay.faults)} faults")
    for fault in faults:
        print(f"k8s: {fault}", file=sys.stderr)
    sys.exit(1 if faults or not built else 0)


if __name__ == "__main__":
    main()
