"""How does a test run what a page of the manual tells people to type?

Blocks of `sh` run one after the other, as in one terminal: files that blocks name in their first
line (`# hello.py`) lie there, and a folder that was entered stays. A comment before a block says
what is special about it:

    <!-- not run: WHY -->   nobody runs it in a test
    <!-- serves -->         it starts a server, which runs to the end of the page
    <!-- keeps on -->       it runs beside what follows, to the end of the page

A block of `text` right after one of `sh` is what that prints.
"""

import asyncio
import os
import re
import signal
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tests.harness.gateway import ROOT

_BLOCK = re.compile(
    r"^(?P<margin> *)(?:<!-- (?P<mark>[^>]+?) -->\n(?P=margin))?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^(?P=margin)```$",
    re.M | re.S,
)
_NAMED = re.compile(r"# ([\w./-]+\.\w+)$")
_PRELUDE = f"""set -eo pipefail
headgate() {{ "{sys.executable}" -m gateway "$@"; }}
python() {{ "{sys.executable}" "$@"; }}
trap 'pwd >"$HERE"' EXIT
"""
NOT_RUN = "not run: "
ASKED_AGAIN_S = 15.0  # not sooner: who is asked twice ends without finishing what it has


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a page, in whose language, and what the comment before it says."""

    page: str
    language: str
    text: str
    mark: str
    printed: str | None = None


def blocks_of(path: Path) -> list[Block]:
    """The blocks of the page at `path`, each with what it is said to print."""
    text = path.read_text()
    found = list(_BLOCK.finditer(text))
    blocks = []
    for match, following in zip_longest(found, found[1:]):
        next_to = following and not text[match.end() : following.start()].strip()
        printed = following["text"] if next_to and following["language"] == "text" else None
        inside = textwrap.dedent(match["text"])
        page = str(path.relative_to(ROOT))
        blocks.append(Block(page, match["language"], inside, match["mark"] or "", printed))
    return blocks


def typed(block: Block) -> str:
    """What somebody types: all of a block of `sh`, what follows `$` in one of `console`."""
    if block.language != "console":
        return block.text
    lines: list[str] = []
    goes_on = False
    for line in block.text.splitlines():
        if goes_on or line.startswith("$ "):
            lines.append(line if goes_on else line[2:])
            whole = "\n".join(lines)
            goes_on = whole.endswith("\\") or whole.count("'") % 2 == 1
    return "\n".join(lines)


class Terminal:
    """A folder in which blocks run; `ports` is what stands for the ports of the manual."""

    def __init__(
        self, folder: Path, ports: Mapping[int, int], environment: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.ports = ports
        self._here = folder / ".here"
        self._environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "HERE": str(self._here), **environment
        }  # fmt: skip
        self._running: list[asyncio.subprocess.Process] = []

    def translated(self, text: str) -> str:
        """`text` with the ports that are there."""
        for named, real in self.ports.items():
            text = text.replace(f":{named}", f":{real}")
        return text

    def keep(self, block: Block) -> None:
        """Writes the file that the block shows, if it names one."""
        if named := _NAMED.match(block.text.partition("\n")[0]):
            path = self.here / named[1]
            path.write_text(self.translated(block.text))

    @property
    def here(self) -> Path:
        """The folder that the last block was left in."""
        return Path(self._here.read_text().strip()) if self._here.exists() else self.folder

    async def start(self, block: Block) -> None:
        """Starts the block beside what follows."""
        with (self.folder / f"{len(self._running)}.log").open("wb") as log:
            self._running.append(await self._bash("", block, log))

    async def run(self, block: Block, prelude: str = "") -> str:
        """What the block prints; fails the test where it fails or prints something else."""
        process = await self._bash(prelude, block, asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        words = said.decode()
        where = f"{block.page}:\n{block.text}\n{words}{self.logs()}"
        assert process.returncode == 0, where
        if block.printed is not None:
            assert words.strip() == self.translated(block.printed).strip(), where
        return words

    async def _bash(
        self, prelude: str, block: Block, output: int | object
    ) -> asyncio.subprocess.Process:
        script = self.translated(typed(block))
        if block.mark == "serves":
            script = script.replace("headgate", f"exec {sys.executable} -m gateway", 1)
        return await asyncio.create_subprocess_exec(
            "bash", "-c", _PRELUDE + prelude + script,
            cwd=self.here, env=self._environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=output, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def logs(self) -> str:
        """The end of what runs beside has printed."""
        return "".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))

    async def close(self) -> None:
        """Ends what runs beside, and waits for it."""
        async with asyncio.timeout(120):
            await asyncio.gather(*map(_ended, self._running))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Asks until it has ended: a shell that is just about to start a command forgets a signal."""
    while process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ASKED_AGAIN_S)


def of_language(blocks: Sequence[Block], *languages: str) -> list[Block]:
    """Those that somebody types and that are run."""
    return [b for b in blocks if b.language in languages and not b.mark.startswith(NOT_RUN)]
