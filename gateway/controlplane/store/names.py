"""What is in a state directory, and what is it called? Names alone, which commands read too."""

from pathlib import Path

STATE_NAME = ".headgate"
FILES = "files"  # the states of further files in one folder
DATABASE = "state.db"
COPY = "etcd-copy"  # of the table in etcd, to start from while that is away
LEASE = "lease.json"  # in the private directory: until when it was held
TOKEN = "token"  # noqa: S105 -- a file's name
OWNER = "file"  # the name of the file whose state this is
LOCK = "lock"  # the process that has the directory
RUN = "run"  # the private directory of the gateway that has it
STARTED = "started"  # what the processes of `headgate up` are known by
MADE = "made.yaml"  # the configuration of code that was served without one
ADMIN = "admin"  # the URL by which this machine reaches its admin API, and its certificate's file


def unusable(directory: Path, error: OSError) -> str:
    """Why there can be no state in `directory`, and what to do, in one line."""
    reason = error.strerror or error
    return f"state directory {directory}: {reason}; --state-dir (HEADGATE_STATE_DIR) names another"
