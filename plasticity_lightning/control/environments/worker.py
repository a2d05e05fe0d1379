"""Main program of an environment process, see `processes.py`: `python -m ....worker FILE_DESCRIPTOR`.

It answers commands until its socket is closed, which also the death of its parent does. Signals of the terminal and of
batch systems go to all processes of a run; the parent decides what they mean.
"""

from __future__ import annotations

import mmap
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from plasticity_lightning.control.environments.contract import BrokenEnvironmentError
from plasticity_lightning.control.environments.group import EnvironmentGroup
from plasticity_lightning.errors import UserError

__all__ = ["serve"]


def serve(connection: Connection) -> None:
    """Answer commands of an `EnvironmentProcess` until it hangs up."""
    group: EnvironmentGroup | None = None
    try:
        while True:
            command, argument = connection.recv()
            answer: Any = None
            try:
                if command == "build":
                    group = EnvironmentGroup(*argument)
                    group.build()
                    answer = group.form
                elif command == "map":
                    assert group is not None
                    group.place(mmap.mmap(*argument))
                else:
                    assert group is not None
                    group.send(command, argument)
                    answer = group.receive()
            except UserError as error:
                # classes of others may not be known, or not be made from a text, on the other side
                kind = BrokenEnvironmentError if isinstance(error, BrokenEnvironmentError) else UserError
                answer = kind(str(error))
            except Exception as error:
                traceback.print_exc()
                answer = BrokenEnvironmentError(f"{command} of an environment failed: {type(error).__name__}: {error}")
            connection.send(answer)
    except (EOFError, ConnectionError):
        pass
    finally:
        if group is not None:
            group.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))
