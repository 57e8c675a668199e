"""What is in a state directory, and what is it called? Names alone, which commands read too."""

STATE_NAME = ".headgate"
FILES = "files"  # the states of further files in one folder
DATABASE = "state.db"
COPY = "etcd-copy"  # of the table in etcd, to start from while that is away
TOKEN = "token"  # noqa: S105 -- a file's name
OWNER = "file"  # the name of the file whose state this is
LOCK = "lock"  # the process that has the directory
RUN = "run"  # the private directory of the gateway that has it
ADMIN = "admin"  # the URL by which this machine reaches its admin API, and its certificate's file
