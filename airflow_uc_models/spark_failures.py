"""What a failure of Spark means and what may be told of it: Spark's own texts quote rows, and messages go to logs.

A failure is known by its error condition and SQLSTATE, and by the classes of its exceptions in Java and Python. What
has neither, and only then, is known by words of its text; all such words are in this module.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

_MOST_TEXT = 500


class Kind(Enum):
    """What a failure is about."""

    DENIED = "a missing privilege"
    INPUT = "the rows, or the table or files that they are in"
    LOADING = "a model that cannot be loaded"
    REFUSED = "what the job itself refuses"
    PASSING = "anything else, which may pass"


@dataclass(frozen=True)
class Failure:
    """A failure of Spark, without what it says in its own words.

    :param condition: such as ``CAST_INVALID_INPUT``; empty where Spark names none
    :param classes: names of its exceptions, from the first to the last cause
    :param parameters: of the condition
    :param text: as Spark tells it; not for messages
    """

    condition: str = ""
    sql_state: str = ""
    classes: Sequence[str] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def of_text(cls, text: str) -> Failure:
        """Read a failure out of a text: all that a workspace tells."""
        condition = re.search(r"(?:^|: )\[([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)?)\]", text, re.MULTILINE)
        named = condition or re.search(rf"(?:^|: )({'|'.join(_DENIED)})\b", text, re.MULTILINE)
        state = re.search(r"SQLSTATE: ([0-9A-Z]{5})\b", text)
        classes = re.findall(r"^\s*(?:Caused by: |: )?([A-Za-z_][\w.$]*(?:Exception|Error|Exit))\b", text, re.MULTILINE)
        return cls(named[1] if named else "", state[1] if state else "", [c for c in classes if _is_class(c)], {}, text)

    @property
    def kind(self) -> Kind:
        """What it is about."""
        if self._own("JobError"):
            return Kind.REFUSED
        name = self.condition.partition(".")[0]
        if name in _DENIED or self.sql_state == "42501":
            return Kind.DENIED
        if self._passes:
            return Kind.PASSING
        if self._own("LoadingError") or _LOADING.search(self.text):
            return Kind.LOADING
        is_input = self.is_of_rows or name in _INPUT or self.sql_state[:2] in _INPUT_STATES or self._damage
        return Kind.INPUT if is_input else Kind.PASSING

    @property
    def told(self) -> str:
        """The failure in words that have no value of a row; to read it again gives the same failure."""
        if own := self._own("JobError") or self._own("LoadingError") or self._own("ScoringError"):
            return own
        if reason := _OWN_REASON.search(self.parameters.get("errorMessage") or self.text):
            return reason[0]
        if "TIMESTAMP(NANOS" in self.text:
            return _NANOSECONDS
        if self.condition and self.condition in self.text and self._is_of_statement:
            return next(line for line in self.text.splitlines() if self.condition in line).strip()[:_MOST_TEXT]
        status = re.search(r"\bHTTP(?: status)?(?: code)?[ :=]{0,2}([45]\d\d)\b", self.text, re.IGNORECASE)
        what = self._damage or (self.classes[-1] if self.classes else "") or (f"HTTP {status[1]}" if status else "")
        parts = [f"[{self.condition}]" if self.condition else "", f"{what}." if what else ""]
        parts += [f"SQLSTATE: {self.sql_state}" if self.sql_state else ""]
        return " ".join(part for part in parts if part)

    @property
    def is_of_rows(self) -> bool:
        """Whether this package's own expressions have found it in a row."""
        return bool(_OWN_REASON.search(self.parameters.get("errorMessage") or self.text))

    @property
    def file(self) -> str:
        """The file that it names, if any."""
        if path := self.parameters.get("path"):
            return path
        found = _FILE.search(self.text) or re.search(r"((?:\w+:)?/[^\s`'\"]+\.(?:parquet|csv)[^\s`'\",:]*)", self.text)
        return found[1] if found else ""

    @property
    def _is_of_statement(self) -> bool:
        """Whether it is told before any row is read: of names and types."""
        name = self.condition.partition(".")[0]
        return (self.sql_state[:2] == "42" and "VALUE" not in name) or name in (*_NAMES, *_DENIED)

    @property
    def _passes(self) -> bool:
        names = [name.rpartition(".")[2] for name in self.classes]
        last = names[-1] if names else ""
        spoken = re.sub(r"^\s*at .*$", "", self.text, flags=re.MULTILINE)  # a frame has numbers, too
        return any(_PASSING.search(name) for name in names) or (last in _BARE and bool(_PASSING_WORDS.search(spoken)))

    @property
    def _damage(self) -> str:
        """What is wrong with a file, if that is it."""
        column = re.search(r"column: \[([^\]]+)\], physicalType: (\w+), logicalType: ([\w(),]+)", self.text)
        if column:
            return f"column {column[1]} is {column[2]}, and {column[3]} in other files"
        codec = re.search(r"ClassNotFoundException: (?:Class )?([\w.$]*compress\.[\w.$]+)", self.text)
        if codec:
            return f"this Spark does not have the codec {codec[1].rpartition('.')[2]} of its compression"
        names = " ".join(name.rpartition(".")[2] for name in self.classes)
        for pattern, words in _DAMAGE:
            if re.search(pattern, names) or re.search(pattern, self.condition):
                return words
        is_bare = not self.classes or self.classes[-1].rpartition(".")[2] in _BARE
        return next((words for pattern, words in _DAMAGE_WORDS if is_bare and re.search(pattern, self.text)), "")

    def _own(self, name: str) -> str:
        """Return what an error of the job says, in words that were chosen for logs."""
        if name == "JobError":  # on the driver, so it stands first; it may have several lines
            found = re.match(r"(?:[\w.]+\.)?(?:Job|Input)Error: (.*)", self.text, re.DOTALL)
        else:
            found = re.search(rf"^(?:[\w.]+\.)?{name}: (.*)$", self.text, re.MULTILINE)
        return found[1].strip() if found else ""


def _is_class(name: str) -> bool:
    """Whether a word at the begin of a line is surely a class: what a model raises may have lines of rows."""
    return "." in name or hasattr(builtins, name)


# A frame of the Python trace: the model failed before it was given any row.
_LOADING = re.compile(r"mlflow/pyfunc/__init__\.py\", line \d+, in load_model\b")
# What this package's own expressions raise in Spark.
_OWN_REASON = re.compile(
    r"Column '[^\n]*?' has (?:a value that is no \w+|no value; the model takes \w+ there|text that is not [\w-]+"
    r"|quotes with a backslash before them [^\n]*? in the file)"
    r"|The line does not have the columns of the header"
)
_FILE = re.compile(r"(?:reading|read) (?:the )?(?:file:? |footer for file: )`?((?:\w+:)?/[^\s`]*[^\s`.,])")
_NANOSECONDS = (
    "Spark does not read times in nanoseconds from Parquet files. Write them in microseconds (pandas: "
    "to_parquet(..., coerce_timestamps='us')), or use engine='local'."
)
_DENIED = ("INSUFFICIENT_PERMISSIONS", "PERMISSION_DENIED", "UNAUTHORIZED_ACCESS")
# Conditions about names and types. Those of older Spark and of warehouses come without a SQLSTATE.
_NAMES = (
    "CATALOG_NOT_FOUND", "COLUMN_ALREADY_EXISTS", "DATATYPE_MISMATCH", "PARSE_SYNTAX_ERROR", "PATH_NOT_FOUND",
    "SCHEMA_NOT_FOUND", "TABLE_OR_VIEW_NOT_FOUND", "UNABLE_TO_INFER_SCHEMA", "UNRESOLVED_COLUMN", "UNRESOLVED_ROUTINE",
)  # fmt: skip
_INPUT = (
    *_NAMES, "CANNOT_MERGE_SCHEMAS", "CANNOT_PARSE_TIMESTAMP", "CANNOT_READ_FILE_FOOTER", "CAST_INVALID_INPUT",
    "CAST_OVERFLOW", "FAILED_READ_FILE", "MALFORMED_CSV_RECORD", "MALFORMED_RECORD_IN_PARSING",
    "NUMERIC_VALUE_OUT_OF_RANGE", "USER_RAISED_EXCEPTION",
)  # fmt: skip
# SQLSTATE classes: data exceptions, constraints, names and syntax, what is not supported, Spark's data sources.
_INPUT_STATES = ("22", "23", "42", "0A", "KD")
# Classes of what may pass, whatever it is wrapped in.
_PASSING = re.compile(
    r"^(?:ConnectException|ConnectTimeoutException|SocketException|SocketTimeoutException|UnknownHostException"
    r"|NoRouteToHostException|InterruptedIOException|TimeoutException|SSLException|SSLHandshakeException"
    r"|ClosedChannelException|NoHttpResponseException|SdkClientException|RetriableException|StandbyException"
    r"|AWSServiceThrottledException|AWSStatus5\d\dException|AWSServiceIOException|OutOfMemoryError"
    r"|ConnectionError|ConnectionResetError|TimeoutError|MemoryError)$"
)
# Classes that say nothing, so that the text has to.
_BARE = ("IOException", "RuntimeException", "SparkException", "OSError", "IllegalStateException")
_PASSING_WORDS = re.compile(
    r"[Cc]onnection (?:reset|refused|closed)|Broken pipe|timed out|SlowDown|[Tt]hrottl"
    r"|(?:[Ss]tatus(?: [Cc]ode)?|HTTP(?:/[\d.]+)?)\W{1,3}50\d|No space left|Input/output error"
)
_DAMAGE = (
    (
        r"UnsupportedCharset|IllegalCharsetName|INVALID_PARAMETER_VALUE.CHARSET",
        "Spark's Java does not know the encoding of csv_options. Convert the file to UTF-8, or use engine='local'",
    ),
    (r"ParquetCryptoRuntimeException", "it is encrypted"),
    (r"\bFileNotFoundException|FILE_NOT_EXIST", "it is gone"),
    (r"AccessControlException|AccessDeniedException", "it may not be read"),
    (r"\bEOFException", "it is cut off"),
    (r"ZipException", "it is not compressed as its name says"),
    (r"MalformedInputException|CharacterCodingException|MALFORMED_CHARACTER_CODING", "it is in another encoding"),
    (r"TProtocolException|ParquetDecodingException|CorruptStatistics|BadConfiguration", "it is damaged"),
)
_DAMAGE_WORDS = (
    (r"is not a Parquet file", "it is no Parquet file, or it is cut off"),
    (r"corrupted file|[Cc]orrupt", "it is damaged"),
    (r"not a gzip file|not in gzip format", "it is not compressed as its name says"),
    (r"Permission denied", "it may not be read"),
)
