"""`headgate init`: a small project that runs, to begin with.

A model in two versions, a configuration, a test, a Compose file and ten lines about them. What is
there already is never written over.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from gateway.cli import screen
from gateway.cli.grids import Cell
from gateway.cli.refusals import Refusal

MODELS = '''\
"""A model in two versions. `headgate up headgate.yaml` serves both."""

from instance import ModelAPI
from pydantic import BaseModel


class Text(BaseModel):
    text: str


class Words(ModelAPI):
    """Counts words. Load weights in `setup`: it runs once in each worker process."""

    def __init__(self, shortest: int = 1):
        self.shortest = shortest

    def setup(self, device):
        pass

    def decode_request(self, request: Text):
        return request.text

    def predict(self, x):
        return {"words": sum(len(word) >= self.shortest for word in x.split())}
'''

CONFIGURATION = """\
# One model in two versions behind one path. Edit it, then: headgate apply headgate.yaml --wait
backends:
  words:
    serve: {model: models.py:Words, devices: [cpu]}
  words-long:
    serve: {model: models.py:Words, devices: [cpu], args: {shortest: 4}}
routes:
  words:
    match: /words
    split: {words: 90, words-long: 10}
"""

TEST = """\
from models import Text, Words


def test_words_are_counted():
    model = Words(shortest=4)
    model.setup("cpu")
    text = model.decode_request(Text(text="a word or three"))
    assert model.predict(text) == {"words": 2}
"""

COMPOSE = """\
# docker compose up: the same in a container. The image is built once, in a checkout of Headgate:
#   docker build --file docker/instance.Dockerfile --tag headgate-instance .
services:
  headgate:
    image: headgate-instance
    entrypoint: [headgate, up, headgate.yaml, --state-dir, /tmp/headgate]
    working_dir: /srv/models
    volumes: ["./:/srv/models:ro"]
    ports: ["8080:8080", "127.0.0.1:8081:8081"]
    environment: {HEADGATE_ADMIN: "0.0.0.0:8081"} # its token is printed at the start
    healthcheck:
      test: [CMD, python, -c, "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/-/health')"]
    stop_grace_period: 40s
    restart: unless-stopped
"""

README = """\
# Words

- `headgate up headgate.yaml` serves both versions on http://localhost:8080/words:
  `curl localhost:8080/words -H 'Content-Type: application/json' -d '{"text": "a word or three"}'`
- `headgate weights words words-long=50` shifts traffic while requests flow; http://localhost:8081
  shows it.
- Change `headgate.yaml`, then `headgate apply headgate.yaml --wait`: a new version takes over when
  it is ready. For changed code it is `headgate reload words`, or from the start
  `headgate up headgate.yaml --reload`.
- `pip install pytest && pytest` tests the model alone; `docker compose up` runs all in a container.
- `models.py` holds the models, `headgate.yaml` says which are served and who gets how much.
"""

FILES = {
    "models.py": MODELS,
    "headgate.yaml": CONFIGURATION,
    "test_models.py": TEST,
    "compose.yaml": COMPOSE,
    "README.md": README,
}


def write_new(files: Mapping[Path, str]) -> None:
    """Writes all of `files`, or none of them: OSError names one that is there already, or cannot be
    written."""
    begun: list[Path] = []
    for path, text in files.items():
        try:
            with path.open("x", encoding="utf-8") as file:
                begun.append(path)
                file.write(text)
        except OSError as error:
            for each in begun:
                each.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from None


def init(options: SimpleNamespace) -> int:
    """Writes the project, or nothing where one of its files is there already."""
    folder = Path(options.folder or ".")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_new({folder / name: text for name, text in FILES.items()})
    except FileExistsError as error:
        raise Refusal(f"{error.filename} is there already; name another folder") from None
    for name in FILES:
        screen.show(Cell(f"+ {folder / name}", "good"))
    # A name that begins with a dash is an option to `cd`.
    named = str(folder) if not str(folder).startswith("-") else f"./{folder}"
    where = "" if folder == Path() else f"cd {shlex.quote(named)} && "
    screen.show(Cell(f"next: {where}headgate up headgate.yaml"))
    return 0
