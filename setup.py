"""The hot path as machine code, by mypyc, in what is built to be installed: from the same sources.

HEADGATE_COMPILE says whether. `1` compiles or fails; `0` does not; `auto`, the default, does where
there is a C compiler. An editable install runs the sources as they stand. All else about the
package is in pyproject.toml.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

# What each request runs through, and what reads how each was counted, and no more: what reads a
# file or serves an edit is as quick as it has to be, and tells better in pure Python what is wrong
# with a value.
HOT = {
    "gateway/core": """access balancing compressing concurrency_limit cors crowding errors
        fair_turns framing header_fields header_rules headers heads health index instance_load
        kept lines matching openai options pooling queueing rate_limit response_heads retrying
        sampling shared_load splitting strangers targets
        tracing""",
    "gateway/controlplane/watch": "book_reader rates tallies",
    "gateway/dataplane": """admitting attempt availability backend bucket buckets coding cold_start
        connection deadlines deciding door exchange idle_queue in_flight_limit instance intake judge
        leased limiting listener live_route match_memory meeting mirroring model_listing pairing
        plane pool queue queue_turns replies replying retry room route_table shaping shared traced
        tunnel upstream waiter""",
    "gateway/telemetry": "buckets ledger metrics rows series",
    "instance/core": "batching deadlines expiring pacing",
    "instance/front": """answers batches connection driver endpoint http incoming jobs load takers
        traced workers writing""",
    "instance/model": "pipeline preparing serving",
    "instance/wire": "arena frames replies",
}
BUILDING = {"bdist_wheel", "build", "build_ext"}
COMPILER = ["mypy>=2.4,<3"]
# Modules call each other directly, and Python without a detour: 4 % of the request path.
DIRECT = ["-fvisibility=hidden", "-fno-plt"]


def extensions(wanted: str) -> list[Extension]:
    """The extension modules to build."""
    if wanted == "0" or BUILDING.isdisjoint(sys.argv):
        return []
    if wanted == "auto" and (lacking := what_lacks()):
        print(f"headgate: built as pure Python, for lack of {lacking}", file=sys.stderr)
        return []
    from mypyc.build import mypycify

    if not (sources := hot()):
        return []
    # Types are checked elsewhere, where all that is imported is installed. What is compiled does
    # not depend on that, and to read all of torch for it takes minutes and gigabytes.
    options = [
        "--config-file=", "--ignore-missing-imports", "--follow-imports=silent",
        "--no-site-packages",
    ]  # fmt: skip
    # -O3 is larger and 5 % slower on the request path: processors have small caches for code.
    made = mypycify([*options, *sources], group_name="headgate", multi_file=True, opt_level="2")
    for each in made:
        each.extra_compile_args += DIRECT
    return list(made)


def hot() -> list[str]:
    """The files to compile: an image may have one of the two programs alone."""
    there = {folder: names for folder, names in HOT.items() if Path(folder).is_dir()}
    return [f"{folder}/{name}.py" for folder, names in there.items() for name in names.split()]


def what_lacks() -> str:
    """What it would take to compile, "" if all of it is here."""
    if importlib.util.find_spec("mypyc") is None:
        return "mypyc"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "try.c")
        source.write_text("#include <Python.h>\n")
        trial = build_ext(Distribution({"ext_modules": [Extension("trial", [str(source)])]}))
        trial.build_lib = trial.build_temp = folder
        trial.ensure_finalized()
        try:
            trial.run()
        except Exception:  # whatever a platform's compilers raise
            return "a C compiler or Python's headers"
    return ""


wanted = os.environ.get("HEADGATE_COMPILE", "auto")
if wanted not in ("0", "1", "auto"):
    sys.exit(f"HEADGATE_COMPILE is {wanted!r}, and must be 0, 1 or auto")
is_asked = "egg_info" in sys.argv and wanted != "0"  # what the build needs
setup(ext_modules=extensions(wanted), setup_requires=COMPILER if is_asked else [])
