"""The checking process: questions on stdin, replies on stdout, until stdin ends.

It ends with the daemon, however that goes: a look that never ends would otherwise outlive it.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from supervisord.adapters.output_checker.frames import LENGTH, Question, Reply, packed
from supervisord.adapters.output_checker.schemas import flaw, misfit
from supervisord.core.errors import InvalidRequestError
from supervisord.core.output_check import Fits, Truncated, Wrong, check_terms, verdict

MEMORY_BYTES = 2 * 2**30  # of addresses: a 16 MiB answer of small objects takes some 600 MiB as Python's
NICENESS = 5  # answers wait for a check, streams must not
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_QUESTIONS = msgspec.msgpack.Decoder(Question)


def main() -> None:
    """Run as `… PARENT_PID`."""
    _end_with(int(sys.argv[-1]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(NICENESS)
    serve(sys.stdin.buffer, sys.stdout.buffer)


def serve(questions: BinaryIO, replies: BinaryIO) -> None:
    """Reply to each question in turn. The first reply says that it has begun."""
    reply = Reply("ready")
    while True:
        replies.write(packed(reply))
        replies.flush()
        head = questions.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        reply = _reply(questions.read(LENGTH.unpack(head)[0]))


def _reply(frame: bytes) -> Reply:
    try:
        return _looked_at(_QUESTIONS.decode(frame))
    except InvalidRequestError as error:
        return Reply("refused", error.message, error.param)
    except MemoryError:
        return Reply("failed", f"it takes more than {MEMORY_BYTES // 2**30} GiB of memory")
    except Exception as error:  # noqa: BLE001 - what a schema from outside brings about must not end the process
        return Reply("failed", f"the validator failed with {type(error).__name__}")


def _looked_at(question: Question) -> Reply:
    if question.answer is None:
        check_terms(question.check, question.endpoint, question.request, flaw)
        return Reply("accepted")
    match verdict(question.check, question.endpoint, question.request, question.answer, misfit):
        case Fits():
            return Reply("fits")
        case Wrong(message):
            return Reply("wrong", message)
        case Truncated(message):
            return Reply("truncated", message)


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before this could be asked for
        os._exit(0)
