"""Conversations to import: made at random from a fixed seed, so that every run checks the same ones."""

import json
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

SEED = 20260901
SESSIONS = 400
LONG_SESSION = "long~3000@turns"
LONG_SESSION_EVENTS = 3_000

# Said in sessions that are erased later: in the events of two, and all around a third, which has none.
PLANTED = "qX7vNw2KfZ9sRb4TjLm8Yc3H"
ERASED_WITH_TWO_COPIES = "erase=me:1"
ERASED_WHILE_RESTORED = "erase=me:2"
ERASED_WITHOUT_EVENTS = "erase=me:3"

# Sessions that nobody ended yet.
OPEN_SESSIONS = ["open+1", "open+2", "open+3"]

FIRST_DAY = datetime(2026, 8, 29, tzinfo=timezone.utc)
DAYS = 6
TYPES = ["user_speech", "bot_speech", "system", "tool.call_result-1"]
# What sorts differently by bytes, by letters and by length.
ID_CHARACTERS = "AZaz09._~:@=+-"
WORDS = [
    "hello", "Grüße", "naïve", "नमस्ते", "こんにちは", "שלום", "👩‍👧‍👦", "e\u0301", "𝔘𝔫𝔦", "\u202eright to left",
    "a\u0000b", "\ufeff", "\u2028", "\uffff", "\U0010ffff", "\u007f", "tab\there", 'quote"', "back\\slash",
    "O'Hara", "", "NULL", "{}", "\r\n",
]  # fmt: skip
NUMBERS = [0, -1, 2**63 - 1, -(2**63), 0.1, -1e-7, 1.7976931348623157e308, 5e-324, 100.0]


def written(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def payload(some: random.Random) -> dict[str, Any]:
    """Mostly with a text; some without one, some empty, some nested."""
    said: dict[str, Any] = {}
    if some.random() < 0.8:
        said["text"] = " ".join(some.choices(WORDS, k=some.randrange(8)))
    if some.random() < 0.3:
        said["number"] = some.choice(NUMBERS)
    if some.random() < 0.2:
        said[some.choice(WORDS[:10])] = {"list": [some.choice(NUMBERS), None, True, [{}], some.choice(WORDS)]}
    return said


def events(some: random.Random, began: datetime, ended: datetime, count: int) -> list[dict[str, Any]]:
    """In no order of time, and several at the same time."""
    span_ms = (ended - began) // timedelta(milliseconds=1)
    instants = [began + timedelta(milliseconds=some.randint(0, span_ms)) for _ in range(count // 2 + 1)]
    return [
        {
            "eventId": f"{some.choice('~Aa0-')}{at}",
            "type": some.choice(TYPES),
            "timestamp": written(some.choice(instants)),
            "payload": payload(some),
        }
        for at in range(count)
    ]


def conversation(some: random.Random, session_id: str, count: int) -> dict[str, Any]:
    """A session that began on some day, and ended then or on the day after."""
    began = FIRST_DAY + timedelta(milliseconds=some.randrange(DAYS * 86_400_000))
    ended = began + timedelta(milliseconds=some.randrange(1, 7_200_000))
    session: dict[str, Any] = {"sessionId": session_id, "startedAt": written(began)}
    if some.random() < 0.5:
        session["userId"] = some.choice(["user-", "auth0|", 'patients/"', "Zoë "]) + str(some.randrange(40))
    if some.random() < 0.5:
        session["language"] = some.choice(["en", "de-CH", "zh-Hant-TW"])
    session["metadata"] = {} if some.random() < 0.5 else payload(some)
    end = {"status": some.choice(["completed", "completed", "failed"]), "endedAt": written(ended)}
    if some.random() < 0.3:
        end["reason"] = " ".join(some.choices(WORDS[:9], k=3))
    return {"session": session, "events": events(some, began, ended, count), "complete": end}


def made() -> list[dict[str, Any]]:
    some = random.Random(SEED)
    # Every id but the first few is the beginning of another or differs from one in a character.
    ids = ["0", "A", "a", "~", "-"]
    while len(ids) < SESSIONS:
        ids.append(some.choice(ids)[:12] + some.choice(ID_CHARACTERS))
        ids = [session_id for session_id in dict.fromkeys(ids) if session_id not in (".", "..")]
    all_made = [conversation(some, session_id, some.choice([0, 1, 2, 5, 10, 30])) for session_id in ids]
    all_made.append(conversation(some, LONG_SESSION, LONG_SESSION_EVENTS))

    # At the edges of a day, and far from any.
    edges = conversation(some, "edges-of-time", 6)
    instants = [
        "0001-01-01T00:00:00.000Z", "1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z",
        "2026-08-30T23:59:59.999Z", "2026-08-31T00:00:00.000Z", "9999-12-31T23:59:59.999Z",
    ]  # fmt: skip
    for event, instant in zip(edges["events"], instants, strict=True):
        event["timestamp"] = instant
    edges["complete"]["endedAt"] = "2026-08-31T23:59:59.999Z"
    all_made.append(edges)
    old = conversation(some, "long-ago", 3)
    old["session"]["startedAt"], old["complete"]["endedAt"] = "1969-07-20T20:17:40.000Z", "1969-07-21T02:56:15.000Z"
    all_made.append(old)

    # A day without any event.
    quiet = conversation(some, "quiet-day", 0)
    quiet["session"]["startedAt"], quiet["complete"]["endedAt"] = "2026-07-01T00:00:00.000Z", "2026-07-01T00:00:00.000Z"
    all_made.append(quiet)

    for session_id in (ERASED_WITH_TWO_COPIES, ERASED_WHILE_RESTORED):
        talk = conversation(some, session_id, 40)
        for event in talk["events"][::3]:
            event["payload"] = {"text": f"my secret is {PLANTED}, keep it", "deep": [{PLANTED: PLANTED}]}
        all_made.append(talk)
    silent = conversation(some, ERASED_WITHOUT_EVENTS, 0)
    silent["session"] |= {"userId": PLANTED, "metadata": {"note": PLANTED}}
    silent["complete"]["reason"] = f"because of {PLANTED}"
    all_made.append(silent)

    for session_id in OPEN_SESSIONS:
        still_open = conversation(some, session_id, 7)
        del still_open["complete"]
        all_made.append(still_open)
    some.shuffle(all_made)
    return all_made


def write(file: Path) -> None:
    """Writes JSON Lines as `colloquy import` takes them, every other line in ASCII with escapes."""
    lines = (json.dumps(one, ensure_ascii=at % 2 == 0) + "\n" for at, one in enumerate(made()))
    file.write_text("".join(lines), encoding="utf-8")
