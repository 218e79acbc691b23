"""The rules of the API that JSON Schema can't say, so that data generated as good is good.

No check is switched off. Most rules change the request before it is sent, and schemathesis then judges anew whether
the changed request is good or bad; `filter_failure` knows the two places where the API says more than its document
can. The refusals themselves are tested in tests/it.
"""

import json
import math
import os
import zlib
from typing import Any

import requests
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import AllowHeaderMismatch

SESSIONS_URL = os.environ["COLLOQUY_URL"] + "/v1/sessions"

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
DEPTH_MAX = 64
PAYLOAD_BYTES_MAX = 256 * 1024
METADATA_BYTES_MAX = 16 * 1024
USER_ID_BYTES_MAX = 256


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Called for every request of every phase."""
    # A cursor is opaque: the only good ones are those the server gave out, and no schema tells them from others.
    if isinstance(case.query, dict) and "cursor" in case.query:
        case.query = {name: value for name, value in case.query.items() if name != "cursor"}

    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict):
        case.body = storable_body(case.body)
    if isinstance(case.query, dict) and isinstance(case.query.get("userId"), str):
        case.query = {**case.query, "userId": storable_user_id(case.query["userId"])}

    if "sessionId" in case.path_parameters and case.meta.phase.name != "stateful":
        meet_open_session(case)


def meet_open_session(case: Any) -> None:
    """Sees to it that most good requests find their session open and, naming no version, at the right one.

    A session that nobody opened and a version that nobody saw test a 404 and a 412 and no more. The stateful phase is
    left alone: there it matters which requests came before.
    """
    # The examples all name one session, and one of them erases it: give each operation its own.
    if case.meta.phase.name == "examples":
        case.path_parameters = {**case.path_parameters, "sessionId": f"example-{operation_id(case)}"}
    session_id = case.path_parameters["sessionId"]
    # One in four meets whatever is there.
    if case.meta.phase.name != "examples" and zlib.crc32(session_id.encode()) % 4 == 0:
        return
    requests.post(SESSIONS_URL, json={"sessionId": session_id}, timeout=10)
    if "If-Match" in case.headers:
        case.headers = case.headers.copy()
        del case.headers["If-Match"]


def operation_id(case: Any) -> str:
    return case.operation.definition.raw["operationId"]


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure is one."""
    if operation_id(case) != "appendEvents":
        return True
    # A batch answers for each event on its own: bad events are refused inside a 200, as "rejected".
    if isinstance(failure, AcceptedNegativeData) and response.status_code == 200:
        return not any(outcome["outcome"] == "rejected" for outcome in response.json()["outcomes"])
    # GET of .../events/batch reads the event whose id is "batch": documented, as .../events/{eventId}.
    if isinstance(failure, AllowHeaderMismatch):
        return bool(failure.missing_methods) or failure.undocumented_methods != ["GET"]
    return True


def storable_body(body: dict[str, Any]) -> dict[str, Any]:
    """The body with its free-form objects, and those of the events of a batch, made storable."""
    body = dict(body)
    if isinstance(body.get("payload"), dict):
        body["payload"] = storable_object(body["payload"], PAYLOAD_BYTES_MAX)
    if isinstance(body.get("metadata"), dict):
        body["metadata"] = storable_object(body["metadata"], METADATA_BYTES_MAX)
    if isinstance(body.get("userId"), str):
        body["userId"] = storable_user_id(body["userId"])
    if isinstance(body.get("events"), list):
        body["events"] = [storable_body(event) if isinstance(event, dict) else event for event in body["events"]]
    return body


def storable_user_id(text: str) -> str:
    """As much of the text as its limit in bytes takes; JSON Schema counts characters."""
    return text.encode()[:USER_ID_BYTES_MAX].decode(errors="ignore")


def storable_object(value: dict[str, Any], bytes_max: int) -> dict[str, Any]:
    """The object with every value within its limits, without the last fields where it is too large."""
    value = storable(value, depth=1)
    while len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > bytes_max:
        value.popitem()
    return value


def storable(value: Any, depth: int) -> Any:
    """Integers are int64, other numbers finite, keys free of NUL, and nesting ends at a depth: stored as sent."""
    match value:
        case bool():
            return value
        case int():
            return min(max(value, INT64_MIN), INT64_MAX)
        case float():
            return value if math.isfinite(value) else 0.0
        case dict() | list() if depth > DEPTH_MAX:
            return None
        case dict():
            return {key.replace("\0", "␀"): storable(field, depth + 1) for key, field in value.items()}
        case list():
            return [storable(item, depth + 1) for item in value]
        case _:
            return value
