"""What docs/archive-format.md says, taken from its text, so that it can't say anything else than what is so."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What the document's words for types are in Parquet: as it is stored, what it means, and whether it is UTC.
TYPES = {
    "string": ("BYTE_ARRAY", "StringType()"),
    "timestamp, milliseconds, UTC": ("INT64", "TimestampType(isAdjustedToUTC=1, MILLIS)"),
    "int64": ("INT64", None),
    "int32": ("INT32", None),
}


@dataclass
class Queries:
    """In the order in which the document has them."""

    events_by_dt: str
    text_of_session: str
    view_of_sessions: str
    view_of_events: str
    sessions_by_status: str
    events_by_day: str


class Document:
    def __init__(self, file: Path):
        self.text = file.read_text(encoding="utf-8")

    def queries(self) -> Queries:
        return Queries(*self.blocks("sql"))

    def manifest_fields(self) -> list[str]:
        (example,) = self.blocks("json")
        return list(json.loads(example))

    def columns(self, section: str) -> list[tuple[Any, ...]]:
        """Name, type and whether there may be nulls, of every column in the table of a section."""
        (table,) = re.findall(rf"^## {section}\n.*?((?:^\|[^\n]*\n)+)", self.text, re.MULTILINE | re.DOTALL)[:1]
        header, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()]
        columns = [dict(zip(header, row, strict=True)) for row in rows]
        return [(column["column"], *TYPES[column["type"]], column.get("nulls") == "yes") for column in columns]

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
