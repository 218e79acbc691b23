"""Schemas of what an overlay is made of: Kubernetes' own come with kubernetes-validate, those of the Prometheus operator
are here, as far as we use it. Used by k8s.py.
"""

import jsonschema
import kubernetes_validate

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
SPAN = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required, **properties):
    """The schema of an object with these properties and no others."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


METADATA = closed(["name", "namespace"], name=NAME, namespace=NAME, labels=LABELS, annotations=LABELS)
RULE = closed(
    ["expr"],
    alert={"type": "string"},
    record={"type": "string"},
    expr={"type": ["string", "integer"]},
    keep_firing_for=SPAN,
    labels=LABELS,
    annotations=LABELS,
    **{"for": SPAN},
)
RULE["oneOf"] = [{"required": ["alert"]}, {"required": ["record"]}]
GROUP = closed(
    ["name", "rules"],
    name={"type": "string", "minLength": 1},
    interval=SPAN,
    rules={"type": "array", "minItems": 1, "items": RULE},
)
ENDPOINT = closed(["port"], port=NAME, path={"type": "string", "pattern": "^/"}, interval=SPAN, scrapeTimeout=SPAN)
# The parts of the Prometheus operator's definitions that are used here:
# https://prometheus-operator.dev/docs/api-reference/api/
CUSTOM = {
    "ServiceMonitor": closed(
        ["selector", "endpoints"],
        selector=closed(["matchLabels"], matchLabels=LABELS),
        endpoints={"type": "array", "minItems": 1, "items": ENDPOINT},
        sampleLimit={"type": "integer", "minimum": 1},
    ),
    "PrometheusRule": closed(["groups"], groups={"type": "array", "minItems": 1, "items": GROUP}),
}


def validate(doc, version):
    if doc["apiVersion"] == "monitoring.coreos.com/v1" and doc["kind"] in CUSTOM:
        spec = CUSTOM[doc["kind"]]
        jsonschema.validate(doc, closed(["apiVersion", "kind", "metadata", "spec"], apiVersion={}, kind={}, metadata=METADATA, spec=spec))
    else:
        kubernetes_validate.validate(doc, version, strict=True)
