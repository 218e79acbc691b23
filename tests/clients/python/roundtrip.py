"""One conversation through the client that openapi-python-client makes of openapi.json, against $COLLOQUY_URL."""

import os

from colloquy_client import Client
from colloquy_client.api.events import append_event, append_events, get_event, list_events
from colloquy_client.api.sessions import complete_session, delete_session, get_session, open_session, update_session
from colloquy_client.models import (
    BatchConflict,
    BatchCreated,
    BatchRejected,
    BatchReplayed,
    Completion,
    EventBatch,
    NewEvent,
    NewSession,
    ProblemCode,
    SessionPatch,
)
from colloquy_client.types import UNSET

colloquy = Client(base_url=os.environ["COLLOQUY_URL"], raise_on_unexpected_status=True)

new_session = {"userId": "auth0|python/Zoë", "language": "en", "metadata": {"channel": "chat"}}
opened = open_session.sync_detailed(client=colloquy, body=NewSession.from_dict(new_session))
assert opened.status_code == 201, opened
assert opened.parsed.status == "initiated", opened
session_id = opened.parsed.session_id

again = open_session.sync_detailed(client=colloquy, body=NewSession.from_dict({"sessionId": session_id}))
assert again.status_code == 200, again
assert again.headers["Idempotency-Replayed"] == "true", again
assert again.parsed == opened.parsed, again

question = {"eventId": "e-1", "type": "user_speech", "payload": {"text": "Is anyone there?", "confidence": 0.93}}
appended = append_event.sync_detailed(session_id, client=colloquy, body=NewEvent.from_dict(question))
assert appended.status_code == 201, appended
assert appended.parsed.payload.to_dict() == question["payload"], appended

replayed = append_event.sync_detailed(session_id, client=colloquy, body=NewEvent.from_dict(question))
assert replayed.status_code == 200, replayed
assert replayed.headers["Idempotency-Replayed"] == "true", replayed
assert replayed.parsed == appended.parsed, replayed

answer = {"eventId": "e-2", "type": "bot_speech", "payload": {"text": "Yes."}}
clash, bad = {**question, "type": "system"}, {**question, "eventId": "e-9", "type": "No type"}
all_kinds = EventBatch.from_dict({"events": [question, answer, clash, bad]})
batch = append_events.sync_detailed(session_id, client=colloquy, body=all_kinds)
outcomes = batch.parsed.outcomes
assert [outcome.outcome for outcome in outcomes] == ["replayed", "created", "conflict", "rejected"], batch
assert [type(outcome) for outcome in outcomes] == [BatchReplayed, BatchCreated, BatchConflict, BatchRejected], batch
assert outcomes[0].seq == appended.parsed.seq, batch
assert outcomes[2].problem.code is ProblemCode.EVENT_ID_REUSED, batch
assert outcomes[3].problem.code is ProblemCode.VALIDATION_FAILED, batch

page = list_events.sync_detailed(session_id, client=colloquy, limit=10)
assert [event.event_id for event in page.parsed.events] == ["e-1", "e-2"], page
assert page.parsed.pagination.has_more is False, page
assert page.parsed.pagination.next_cursor is UNSET, page
first = list_events.sync_detailed(session_id, client=colloquy, limit=1)
rest = list_events.sync_detailed(session_id, client=colloquy, limit=1, cursor=first.parsed.pagination.next_cursor)
assert [event.event_id for event in rest.parsed.events] == ["e-2"], rest

alone = get_session.sync_detailed(session_id, client=colloquy, limit=0)
assert (alone.parsed.session.user_id, alone.parsed.events) == (new_session["userId"], []), alone
patch = SessionPatch.from_dict({"userId": None})
patched = update_session.sync_detailed(session_id, client=colloquy, body=patch, if_match=alone.headers["ETag"])
assert patched.parsed.user_id is UNSET, patched

one = get_event.sync_detailed(session_id, "e-1", client=colloquy)
assert one.parsed == appended.parsed, one

end = Completion.from_dict({"status": "completed"})
completed = complete_session.sync_detailed(session_id, client=colloquy, body=end)
assert completed.parsed.status == "completed", completed
assert completed.parsed.ended_at, completed

late = append_event.sync_detailed(session_id, client=colloquy, body=NewEvent.from_dict({**question, "eventId": "e-3"}))
assert late.status_code == 409, late
assert late.parsed.code is ProblemCode.SESSION_ENDED, late

erased = delete_session.sync_detailed(session_id, client=colloquy)
assert erased.status_code == 204, erased

print("python: opened, appended, replayed, read, completed, refused, erased")
