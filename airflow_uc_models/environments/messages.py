"""Messages between a task and a model's process: a line of JSON, then a stream of Arrow record batches, if any.

Runs on both sides, so on any Python from 3.10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Message:
    """What one side tells the other.

    :param head: plain JSON
    :param batches: record batches of one schema
    """

    head: Mapping[str, Any]
    batches: Sequence[pa.RecordBatch] = ()


def send(pipe: IO[bytes], message: Message) -> None:
    """Write a message; BrokenPipeError if nobody reads any more."""
    head = {"head": message.head, "has_batches": bool(message.batches)}
    pipe.write(json.dumps(head).encode() + b"\n")
    if message.batches:
        from pyarrow import ipc

        with ipc.new_stream(pipe, message.batches[0].schema) as stream:
            for batch in message.batches:
                stream.write_batch(batch)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Message | None:
    """Read the next message; None if the other side has closed its end, in the midst of one or not."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    told = json.loads(line)
    if not told["has_batches"]:
        return Message(told["head"])
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pipe) as stream:
            batches = list(stream)
    except (pa.ArrowInvalid, OSError):
        return None
    return Message(told["head"], batches)
