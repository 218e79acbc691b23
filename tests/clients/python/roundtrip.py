"""One conversation through the client that openapi-python-client makes of openapi.json, against $COLLOQUY_URL."""

import os

from colloquy_client import Client
from colloquy_client.api.events import append_event, append_events, get_event, list_events
from colloquy_client.api.sessions import complete_session, delete_session, open_session
from colloquy_client.models import Completion, EventBatch, NewEvent, NewSession

colloquy = Client(base_url=os.environ["COLLOQUY_URL"], raise_on_unexpected_status=True)

new_session = {"userId": "python@example.com", "language": "en", "metadata": {"channel": "chat"}}
opened = open_session.sync_detailed(client=colloquy, body=NewSession.from_dict(new_session))
assert opened.status_code == 201, opened
assert opened.parsed.status == "initiated", opened
session_id = opened.parsed.session_id

question = {"eventId": "e-1", "type": "user_speech", "payload": {"text": "Is anyone there?", "confidence": 0.93}}
appended = append_event.sync_detailed(session_id, client=colloquy, body=NewEvent.from_dict(question))
assert appended.status_code == 201, appended
assert appended.parsed.payload.to_dict() == question["payload"], appended

replayed = append_event.sync_detailed(session_id, client=colloquy, body=NewEvent.from_dict(question))
assert replayed.status_code == 200, replayed
assert replayed.headers["Idempotency-Replayed"] == "true", replayed
assert replayed.parsed == appended.parsed, replayed

answer = {"eventId": "e-2", "type": "bot_speech", "payload": {"text": "Yes."}}
both = EventBatch.from_dict({"events": [question, answer]})
batch = append_events.sync_detailed(session_id, client=colloquy, body=both)
assert [outcome.outcome for outcome in batch.parsed.outcomes] == ["replayed", "created"], batch

page = list_events.sync_detailed(session_id, client=colloquy, limit=10)
assert [event.event_id for event in page.parsed.events] == ["e-1", "e-2"], page
assert page.parsed.pagination.has_more is False, page

one = get_event.sync_detailed(session_id, "e-1", client=colloquy)
assert one.parsed == appended.parsed, one

end = Completion.from_dict({"status": "completed"})
completed = complete_session.sync_detailed(session_id, client=colloquy, body=end)
assert completed.parsed.status == "completed", completed
assert completed.parsed.ended_at, completed

late = append_event.sync_detailed(session_id, client=colloquy, body=NewEvent.from_dict({**question, "eventId": "e-3"}))
assert late.status_code == 409, late
assert late.parsed.code == "session-ended", late

erased = delete_session.sync_detailed(session_id, client=colloquy)
assert erased.status_code == 204, erased

print("python: opened, appended, replayed, read, completed, refused, erased")
