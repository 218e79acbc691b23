"""DuckDB, which knows nothing of Colloquy, finds in the archive what the API says; what was erased is in no object
of it; and a store that was lost comes back from it alone.

$COLLOQUY_TEST_BIN is the binary. The check ends at the first difference, with 1.
"""

import hashlib
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import conversations
from document import Document
from files import Files, day, instant_ms, same
from server import Answers, Broken, Colloquy, Server, session_path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "conversations.jsonl"
DOCUMENT = ROOT / "docs" / "archive-format.md"

EXAMPLE_STILL_OPEN = "example-piano-lesson"
CHANGED = "example-lost-parcel"
# Brought back and archived once more, so that there are two copies of them.
RESTORED = [CHANGED, "edges-of-time", conversations.LONG_SESSION, conversations.ERASED_WITH_TWO_COPIES]
ERASED = [
    conversations.ERASED_WITH_TWO_COPIES,
    conversations.ERASED_WHILE_RESTORED,
    conversations.ERASED_WITHOUT_EVENTS,
]

BEGAN = time.monotonic()


def tell(words: str) -> None:
    print(f"{time.monotonic() - BEGAN:5.1f} s  {words}", flush=True)


def check(colloquy: Colloquy, document: Document) -> None:
    hot = fill(colloquy)
    archived = archive_what_has_ended(colloquy, hot)
    compare_with_duckdb(Files(colloquy.archive, document), archived)
    moved = archive_some_once_more(colloquy, document)
    left = erase(colloquy, document, moved)
    lose_and_rebuild(colloquy, left)


def fill(colloquy: Colloquy) -> Answers:
    """Imports; gives what the API says while everything is hot."""
    made = colloquy.folder / "made.jsonl"
    conversations.write(made)
    for file in (EXAMPLES, made):
        colloquy.command("import", str(file))
    with colloquy.serve() as server:
        return Answers(server)


def archive_what_has_ended(colloquy: Colloquy, hot: Answers) -> Answers:
    with colloquy.serve() as server:
        run = server.archive_all()
        archived = Answers(server)
    ended = sorted(name for name, session in hot.sessions.items() if "endedAt" in session)
    counts = (len(ended), sum(len(hot.events[name]) for name in ended))
    same("what the run archived", (run["sessions"], run["events"]), counts)
    same("archived sessions", sorted(archived.archived()), ended)
    # From here on it is enough to compare with what the API says of archived sessions.
    same("answers of the API, archived and hot", as_if_hot(archived.pages), as_if_hot(hot.pages))
    tell(f"{counts[0]} sessions with {counts[1]} events are in {run['segments']} segments; the API answers as before")
    return archived


def as_if_hot(pages: dict[str, bytes]) -> dict[str, bytes]:
    return {path: page.replace(b'"archived":true', b'"archived":false') for path, page in pages.items()}


def compare_with_duckdb(files: Files, answers: Answers) -> None:
    files.agree_with(answers)
    tell("DuckDB agrees: columns, order, rows, manifests, and every field of every session and event")
    same("events by type and day", files.events_by_dt(), events_by_dt(answers))
    for name in sorted(answers.archived()):
        said = [
            (instant_ms(event["timestamp"]), event["type"], event["payload"].get("text"))
            for event in answers.events[name]
        ]
        same(f"text of {name}", files.text_of(name), said)
    for name in set(answers.sessions) - set(answers.archived()):
        same(f"text of {name}, which is not archived", files.text_of(name), [])
    tell("the document's queries agree: events by type and day, and the text of each session")


def events_by_dt(answers: Answers) -> list[tuple[Any, ...]]:
    """By the day that their session ended on."""
    counts = Counter(
        (day(session["endedAt"]), event["type"])
        for name, session in answers.archived().items()
        for event in answers.events[name]
    )
    return [(*of, count) for of, count in sorted(counts.items())]


def archive_some_once_more(colloquy: Colloquy, document: Document) -> Answers:
    """Some have two copies now, and what was still open is archived, too."""
    for name in RESTORED:
        colloquy.command("archive", "restore", name)
    with colloquy.serve() as server:
        server.ask("PATCH", session_path(CHANGED), {"metadata": {"note": "changed"}, "userId": None})
        for name in (*conversations.OPEN_SESSIONS, EXAMPLE_STILL_OPEN):
            server.ask("POST", session_path(name) + "/complete", {"reason": "the check is over"})
        run = server.archive_all()
        answers = Answers(server)
    same("sessions that are not archived", sorted(set(answers.sessions) - set(answers.archived())), [])
    files = Files(colloquy.archive, document)
    files.agree_with(answers)
    surplus = sum(count for *_, count in files.events_by_dt()) - sum(map(len, answers.events.values()))
    same("events of which there are two copies", surplus, sum(len(answers.events[name]) for name in RESTORED))
    files.pass_over_what_has_no_manifest()
    tell(f"{run['sessions']} more, {len(RESTORED)} of them restored ones: the document's views show newest copies only")
    return answers


def erase(colloquy: Colloquy, document: Document, before: Answers) -> Answers:
    """Erases, and takes the bytes out; gives what the API says then."""
    files = Files(colloquy.archive, document)
    found = {text: files.rows_with(text) for text in (conversations.PLANTED, *ERASED)}
    holding = {text: sorted(columns) for text, columns in found.items()}
    planted_in = ["end_reason", "metadata", "payload", "user_id"]
    expected = {conversations.PLANTED: planted_in} | {name: ["session_id"] for name in ERASED}
    same("columns that hold what is going to be erased", holding, expected)

    colloquy.command("archive", "restore", conversations.ERASED_WHILE_RESTORED)
    with colloquy.serve() as server:
        for name in ERASED:
            server.ask("DELETE", session_path(name), status=204)
        after = Answers(server)
        ask_for_the_erased(server, 410)
    tell("erased: " + ", ".join(ERASED))
    tell("rewrite: " + colloquy.command("archive", "rewrite"))
    tell("sweep: " + colloquy.command("archive", "sweep", "--grace", "0s"))

    for text in found:
        same(f"rows with {text}, which was erased", files.rows_with(text), {})
    count = search_bytes(colloquy.archive, list(found))
    same("answers of the API for all others", after.without(ERASED), before.without(ERASED))
    files.agree_with(after)
    rows = sum(sum(columns.values()) for columns in found.values())
    tell(f"what {rows} rows held is in none, and not in the bytes of {count} objects; all else is as it was")
    return after


def search_bytes(archive: Path, texts: list[str]) -> int:
    """Looks for what was erased in every object's name and bytes; gives how many there are."""
    objects = [path for path in archive.rglob("*") if path.is_file()]
    # A marker keeps a rebuild from bringing the session back. It holds a salted digest, not the session's id.
    salt = (archive / "erased" / ".salt" / "salt").read_bytes()
    digests = sorted(hashlib.sha256(salt + f"default/{name}".encode()).hexdigest() for name in ERASED)
    marked = [path.name.split(".")[1] for path in (archive / "erased" / "default").rglob("*") if path.is_file()]
    same("digests of the erasure markers", sorted(marked), digests)
    for path in objects:
        for text in texts:
            if text.encode() in str(path).encode() + path.read_bytes():
                raise Broken(f"{path} holds {text}, which was erased")
    return len(objects)


def ask_for_the_erased(server: Server, status: int) -> None:
    for name in ERASED:
        for path in ("", "/events"):
            server.ask("GET", session_path(name) + path, status=status)


def lose_and_rebuild(colloquy: Colloquy, before: Answers) -> None:
    for file in (colloquy.archive.parent).glob("colloquy.db*"):
        file.unlink()
    tell("rebuild: " + colloquy.command("archive", "rebuild"))
    with colloquy.serve() as server:
        same("answers of the API, rebuilt and before", Answers(server).pages, before.pages)
        # No copy is left of them, and the tombstones were lost with the store.
        ask_for_the_erased(server, 404)
    tell("verify: " + colloquy.command("archive", "verify"))
    tell(f"the store is as it was: {len(before.pages)} pages of {len(before.sessions)} sessions, byte for byte")


def main() -> int:
    binary = Path(os.environ["COLLOQUY_TEST_BIN"]).resolve()
    with tempfile.TemporaryDirectory(prefix="colloquy.") as folder:
        try:
            check(Colloquy(binary, Path(folder)), Document(DOCUMENT))
        except Broken as broken:
            print(f"not as it should be: {broken}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
