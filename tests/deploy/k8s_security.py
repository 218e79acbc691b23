"""What pods of an overlay may do: the restricted Pod Security Standard, what we promise beyond it, and network policies
that deny what nobody named and let through what is configured. Used by k8s.py, whose Overlay the checks take.
"""

import ipaddress
import re
from urllib.parse import urlsplit

CAPABILITIES_MAY_ADD = {"NET_BIND_SERVICE"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip


def is_restricted(overlay):
    """The restricted Pod Security Standard, baseline included, for pods of Linux:
    https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    for pod in overlay.pods:
        of_pod = pod.spec.get("securityContext", {})
        broken = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(name)]
        for volume in pod.spec.get("volumes", []):
            broken += [f"volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
        for sysctl in of_pod.get("sysctls", []):
            if sysctl["name"] not in SYSCTLS:
                broken.append(f"sysctl {sysctl['name']} is not a safe one")
        for container in pod.containers:
            broken += [f"container {container.spec['name']}: {rule}" for rule in broken_by(container.spec, of_pod)]
        for context in [of_pod, *(c.spec.get("securityContext", {}) for c in pod.containers)]:
            options = context.get("seLinuxOptions", {})
            if options.get("type", "") not in SELINUX_TYPES or options.get("user") or options.get("role"):
                broken.append(f"SELinux options {options} are not allowed")
            if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
                broken.append("AppArmor is off")
            if context.get("windowsOptions", {}).get("hostProcess"):
                broken.append("it is a process of a Windows host")
        for rule in broken:
            overlay.fault(f"{pod} breaks the restricted Pod Security Standard: {rule}")


def broken_by(container, of_pod):
    own = container.get("securityContext", {})
    both = {**of_pod, **own}
    capabilities = own.get("capabilities", {})
    ports = [port for port in container.get("ports", []) if port.get("hostPort")]
    handlers = [container.get(probe, {}) for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    handlers += container.get("lifecycle", {}).values()
    hosts = [h for h in handlers for how in ("httpGet", "tcpSocket") if h.get(how, {}).get("host")]
    return [
        rule
        for holds, rule in [
            (not own.get("privileged"), "it is privileged"),
            (own.get("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation is not false"),
            (both.get("runAsNonRoot") is True, "runAsNonRoot is not true"),
            (both.get("runAsUser") != 0 and of_pod.get("runAsUser") != 0, "runAsUser is 0"),
            (both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"), "no seccomp profile"),
            ("ALL" in capabilities.get("drop", []), "it does not drop ALL capabilities"),
            (set(capabilities.get("add", [])) <= CAPABILITIES_MAY_ADD, "it adds capabilities"),
            (own.get("procMount", "Default") == "Default", "procMount is not Default"),
            (not ports, "it takes a port of the host"),
            (not hosts, "a probe or hook goes to another host"),
        ]
        if not holds
    ]


def is_hardened(overlay):
    """What we promise beyond the standard."""
    for pod in overlay.pods:
        if pod.spec.get("automountServiceAccountToken") is not False:
            overlay.fault(f"{pod} gets a token for the Kubernetes API, which nobody needs")
        if pod.spec.get("enableServiceLinks") is not False:
            overlay.fault(f"{pod} gets service links, which look like configuration")
        for container in pod.containers:
            where = f"{pod}, container {container.spec['name']}"
            resources = container.spec.get("resources", {})
            if not container.spec.get("securityContext", {}).get("readOnlyRootFilesystem"):
                overlay.fault(f"{where} can write to its root file system")
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
                overlay.fault(f"{where} must request CPU and memory, and limit memory")
            if ":" not in container.spec["image"] or container.spec["image"].endswith(":latest"):
                overlay.fault(f"{where}: {container.spec['image']} names no version")


def destinations(container):
    """Where the configuration sends a pod: (host, port)."""
    env = container.env
    for key, usual in (("COLLOQUY_STORE", 27017), ("COLLOQUY_CACHE", 6379)):
        hosts = re.match(r"[a-z+-]+://(?:[^@/]*@)?([^/?]+)", env.get(key, ""))
        for host in hosts[1].split(",") if hosts else []:
            name, _, port = host.partition(":")
            yield name, int(port or usual)
    urls = [value for name, value in env.items() if name.startswith("OTEL_EXPORTER_OTLP") and name.endswith("ENDPOINT")]
    if container.key("archive").startswith("s3://"):
        endpoint = container.key("archive_s3_endpoint")
        urls.append("https://s3.amazonaws.com" if endpoint == "default" else endpoint)
    for url in map(urlsplit, urls):
        yield url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]


def can_talk(overlay):
    """Policies, where there are any, deny all that nobody named, and let through all that is configured."""
    policies = [doc["spec"] for doc in overlay.of("NetworkPolicy")]
    if not policies:
        return
    if not any(p == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for p in policies):
        overlay.fault("no NetworkPolicy denies everything first")
    for policy in policies:
        if not overlay.selected(policy["podSelector"]):
            overlay.fault(f"a NetworkPolicy selects no pod: {policy['podSelector']}")
    for pod, container in overlay.colloquy:
        mine = [policy for policy in policies if pod in overlay.selected(policy["podSelector"])]
        rules = [rule for policy in mine for rule in policy.get("egress", [])]
        cluster_dns = [("UDP", "x.kube-system.svc", 53), ("TCP", "x.kube-system.svc", 53)]
        for protocol, host, port in [*cluster_dns, *(("TCP", *place) for place in destinations(container))]:
            if not any(has_port(rule, protocol, port) and reaches(rule.get("to"), host) for rule in rules):
                overlay.fault(f"{pod}: no NetworkPolicy lets it talk to {host}, {protocol} port {port}")
        rules = [rule for policy in mine for rule in policy.get("ingress", [])]
        for port in container.spec.get("ports", []):
            if not any(has_port(rule, "TCP", port["containerPort"]) for rule in rules):
                overlay.fault(f"{pod}: no NetworkPolicy lets anybody reach port {port['containerPort']}")
        if any(not rule.get("from") for rule in rules):
            overlay.fault(f"{pod}: a NetworkPolicy lets everybody in")


def has_port(rule, protocol, port):
    return "ports" not in rule or (protocol, port) in [(p.get("protocol", "TCP"), p["port"]) for p in rule["ports"]]


def reaches(peers, host):
    """Whether a host, as far as its name tells, is among the peers; no peers are all of them."""
    labels = host.split(".")
    namespace = labels[1] if labels[2:3] == ["svc"] else None
    for peer in peers or []:
        names = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
        if namespace and names == namespace:
            return True
        if re.fullmatch(r"[\d.]+", host) and "ipBlock" in peer:
            return ipaddress.ip_address(host) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    return peers is None
