"""The files of an archive as DuckDB reads them, compared with what the API says."""

import hashlib
import json
import os
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
from document import Document
from server import Answers, Broken

OPTIONS = "hive_partitioning = true, filename = true, file_row_number = true"
SESSIONS = f"read_parquet('archive/sessions/*/*.parquet', {OPTIONS})"
EVENTS = f"read_parquet('archive/events/*/*.parquet', {OPTIONS})"
SHOWN_CHARS_MAX = 600


def same(what: str, read: Any, said: Any) -> None:
    """Fails, with the first difference, unless what was read is what was said."""
    if read == said:
        return
    if isinstance(read, dict) and isinstance(said, dict):
        read, said = sorted(read.items(), key=repr), sorted(said.items(), key=repr)
    if isinstance(read, list) and isinstance(said, list):
        at = next((at for at, (one, other) in enumerate(zip(read, said)) if one != other), min(len(read), len(said)))
        what = f"{what} ({len(read)} against {len(said)}), at {at}"
        read, said = (some[at] if at < len(some) else "nothing" for some in (read, said))
    found, expected = repr(read), repr(said)
    # Of what is long, what begins shortly before the first difference.
    begin = max(len(os.path.commonprefix([found, expected])) - SHOWN_CHARS_MAX // 2, 0)
    found, expected = (text[begin:][:SHOWN_CHARS_MAX] for text in (found, expected))
    raise Broken(f"{what}:\n  found    {found}\n  expected {expected}")


def instant_ms(text: str) -> int:
    """Milliseconds since 1970 of a time as the API writes it."""
    since = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ") - datetime(1970, 1, 1)
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


def day(text: str) -> date:
    return date.fromisoformat(text[:10])


class Files:
    """A DuckDB that sees the archive of a folder, in the time zone that is farthest from UTC."""

    def __init__(self, folder: Path, document: Document):
        self.folder = folder
        self.document = document
        self.queries = document.queries()
        self.duckdb = duckdb.connect()
        self.duckdb.execute(f"SET file_search_path = '{folder.parent}'; SET TimeZone = 'Pacific/Kiritimati'")
        # Nothing that is not in the wheel, wherever this runs.
        self.duckdb.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
        self.duckdb.execute(self.queries.view_of_sessions)
        self.duckdb.execute(self.queries.view_of_events)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.duckdb.execute(query).fetchall()

    def agree_with(self, answers: Answers) -> None:
        """Everything that the API says of archived sessions is in the files, and nothing else is newest there."""
        self.have_the_columns_of_the_document()
        self.are_those_of_the_manifests()
        self.are_sorted()
        self.have_sessions_where_they_say()
        archived = answers.archived()
        events = {name: answers.events[name] for name in archived}
        self.sessions_equal(archived)
        self.events_equal(events)
        self.answers_of_the_documents_queries_equal(archived, events)

    def have_the_columns_of_the_document(self) -> None:
        for section, folder in (("Events", "events"), ("Sessions", "sessions")):
            said = self.document.columns(section)
            schemas: dict[str, list[tuple[Any, ...]]] = {}
            for file, name, stored, meaning, repetition in self.rows(
                "SELECT file_name, name, type, regexp_replace(logical_type, 'unit=.*MILLIS=.*', 'MILLIS)'),"
                f" repetition_type FROM parquet_schema('archive/{folder}/*/*.parquet') WHERE type IS NOT NULL"
            ):
                schemas.setdefault(file, []).append((name, stored, meaning, repetition == "OPTIONAL"))
            for file, columns in schemas.items():
                same(f"columns of {file} and of the document", columns, said)
            marks = self.rows(
                "SELECT file_name, decode(key), decode(value)"
                f" FROM parquet_kv_metadata('archive/{folder}/*/*.parquet') ORDER BY ALL"
            )
            named = {"colloquy.format": lambda _: "1", "colloquy.segment": lambda file: Path(file).stem}
            said = [(file, key, value(file)) for file in sorted(schemas) for key, value in named.items()]
            same("metadata of files", marks, said)

    def are_those_of_the_manifests(self) -> None:
        """Every file is named in a manifest, by its size and its hash, and holds as many rows as that says."""
        rows = Counter({file: 0 for file in self.names("sessions") + self.names("events")})
        for table in (SESSIONS, EVENTS):
            rows.update(dict(self.rows(f"SELECT filename, count(*) FROM {table} GROUP BY ALL")))
        named = []
        for path in sorted((self.folder / "manifests").iterdir()):
            manifest = json.loads(path.read_text())
            same(f"fields of {path.name} and of the document", list(manifest), self.document.manifest_fields())
            for of_file, counted in zip(manifest["files"], ("sessions", "events"), strict=True):
                file = self.folder / of_file["path"]
                content = file.read_bytes()
                found = [len(content), hashlib.sha256(content).hexdigest(), rows[str(file)]]
                same(f"bytes, hash and rows of {file}", found, [of_file["bytes"], of_file["sha256"], manifest[counted]])
                named.append(str(file))
        same("files, and those that manifests name", sorted(rows), sorted(named))

    def names(self, folder: str) -> list[str]:
        return [str(file) for file in (self.folder / folder).glob("*/*.parquet")]

    def are_sorted(self) -> None:
        sessions = self.rows(f"SELECT filename, encode(session_id) FROM {SESSIONS} ORDER BY filename, file_row_number")
        same("order of the rows of sessions", sessions, sorted(set(sessions)))
        events = self.rows(
            "SELECT filename, encode(session_id), epoch_ms(timestamp), seq, encode(event_id)"
            f" FROM {EVENTS} ORDER BY filename, file_row_number"
        )
        same("order of the rows of events", events, sorted(set(events)))

    def have_sessions_where_they_say(self) -> None:
        """`first_row` and `rows` of every copy of a session lead to its events, all of them and no others."""
        said = self.rows(
            "SELECT parse_filename(filename), session_id, first_row, first_row + rows - 1, rows"
            f" FROM {SESSIONS} WHERE rows > 0 ORDER BY ALL"
        )
        found = self.rows(
            "SELECT parse_filename(filename), session_id, min(file_row_number), max(file_row_number), count(*)"
            f" FROM {EVENTS} GROUP BY ALL ORDER BY ALL"
        )
        same("rows where the sessions say their events are", found, said)

    def sessions_equal(self, archived: dict[str, dict[str, Any]]) -> None:
        read = {}
        for tenant, name, user, status, language, metadata, started, ended, reason, version, rows, dt in self.rows(
            "SELECT tenant, session_id, user_id, status, language, metadata, epoch_ms(started_at), epoch_ms(ended_at),"
            " end_reason, version, rows, dt FROM archived_sessions"
        ):
            same(f"tenant of {name}", tenant, "default")
            read[name] = [user, status, language, json.loads(metadata), started, ended, reason, version, dt]
        said = {
            name: [
                *(session.get(field) for field in ("userId", "status", "language", "metadata")),
                *(instant_ms(session[field]) for field in ("startedAt", "endedAt")),
                *(session.get(field) for field in ("endReason", "version")),
                day(session["endedAt"]),
            ]
            for name, session in archived.items()
        }
        same("sessions", read, said)

    def events_equal(self, events: dict[str, list[dict[str, Any]]]) -> None:
        read = [
            (*row[:-1], json.loads(row[-1]))
            for row in self.rows(
                "SELECT tenant, session_id, event_id, seq, type, epoch_ms(timestamp), payload"
                " FROM archived_events ORDER BY encode(session_id), timestamp, seq, encode(event_id)"
            )
        ]
        said = [
            (
                *("default", name, event["eventId"], event["seq"], event["type"]),
                *(instant_ms(event["timestamp"]), event["payload"]),
            )
            for name in sorted(events)
            for event in events[name]
        ]
        same("events", read, said)
        lengths = self.rows("SELECT count(*) FROM archived_events WHERE octet_length(encode(payload)) <> payload_bytes")
        same("payloads of another length than payload_bytes says", lengths, [(0,)])

    def answers_of_the_documents_queries_equal(
        self, archived: dict[str, dict[str, Any]], events: dict[str, list[dict[str, Any]]]
    ) -> None:
        by_day = Counter((day(event["timestamp"]), event["type"]) for said in events.values() for event in said)
        counts = self.rows(self.queries.events_by_day)
        same("events by type and their own day", counts, [(*of, count) for of, count in sorted(by_day.items())])
        by_status = Counter(session["status"] for session in archived.values())
        same("sessions by status", self.rows(self.queries.sessions_by_status), sorted(by_status.items()))

    def pass_over_what_has_no_manifest(self) -> None:
        """A segment that was abandoned is not seen in the views, even if its copies of sessions are newer."""
        whole = self.rows(self.queries.sessions_by_status)
        path = self.names("sessions")[0]
        abandoned = path.replace(".parquet", "0.parquet")
        self.duckdb.execute(
            "COPY (SELECT * EXCLUDE dt REPLACE (epoch + 1 AS epoch, 'abandoned' AS status)"
            f" FROM read_parquet('{path}')) TO '{abandoned}' (FORMAT parquet)"
        )
        same("sessions by status, beside an abandoned segment", self.rows(self.queries.sessions_by_status), whole)
        Path(abandoned).unlink()

    def events_by_dt(self) -> list[tuple[Any, ...]]:
        """By the day their session ended and by type; as often as there are copies."""
        return self.rows(self.queries.events_by_dt)

    def text_of(self, session_id: str) -> list[tuple[Any, ...]]:
        """Of every event in order: time, type and text."""
        example = "'example-bakery-order'"
        if example not in self.queries.text_of_session:
            raise Broken(f"the document's query of a session's text does not name {example}")
        # By way of a table: in Python, DuckDB can't show a time in a zone without a further package.
        query = self.queries.text_of_session.replace(example, f"'{session_id}'")
        self.duckdb.execute(f"CREATE OR REPLACE TEMP TABLE talk AS {query}")
        return self.rows("SELECT epoch_ms(timestamp), type, text FROM talk ORDER BY rowid")

    def rows_with(self, text: str) -> dict[str, int]:
        """In which columns, decoded, how many rows hold a text."""
        found = {}
        for table in (SESSIONS, EVENTS):
            columns = [name for name, kind, *_ in self.rows(f"DESCRIBE SELECT * FROM {table}") if kind == "VARCHAR"]
            for column in columns:
                ((count,),) = self.duckdb.execute(
                    f"SELECT count(*) FROM {table} WHERE contains({column}, ?)", [text]
                ).fetchall()
                if count:
                    found[column] = found.get(column, 0) + count
        return found
