"""`headgate completion`: a script that completes commands, options and names in a shell.

The script hands what stands on the line up to the cursor to this program, which answers with a
line for each way to go on: its kind, a comma, the word and, after a tab, what it means. The line
travels in a variable and not in arguments, which every user of the machine can read: a token may
stand on it. Without a gateway there are no names and no noise.
"""

import os
import shlex
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from gateway.cli.commands import HEADGATE
from gateway.cli.declaring import PROGRAM

INSTANCE = "_HEADGATE_INSTANCE_COMPLETE"  # as instance.cli has it

# bash cuts words at `:` and `=`, which our names hold, and wants back what follows the last cut.
BASH = """\
_headgate() {
  local line=${COMP_LINE:0:COMP_POINT} each kind rest value word cut
  word=${line##*[[:space:]]} cut=${word%"${word##*[:=]}"}
  COMPREPLY=()
  while IFS= read -r each; do
    kind=${each%%,*} rest=${each#*,} value=${rest%%$'\\t'*}
    case $kind in
      file) compopt -o default 2>/dev/null;;
      dir) compopt -o dirnames 2>/dev/null;;
      *) COMPREPLY+=("${value#"$cut"}"); [[ $value != *= ]] || compopt -o nospace 2>/dev/null;;
    esac
  done < <(_HEADGATE_LINE=$line headgate 2>/dev/null)
}
complete -F _headgate headgate"""
ZSH = """\
#compdef headgate
_headgate() {
  local line="${(j: :)words[1,CURRENT-1]} $PREFIX" each kind rest value; local -a plain shown open
  compset -P '--[^=]##='
  for each in ${(f)"$(_HEADGATE_LINE=$line headgate 2>/dev/null)"}; do
    kind=${each%%,*} rest=${each#*,}; value=${rest%%$'\\t'*}
    case $kind in
      file) _files;;
      dir) _files -/;;
      *) if [[ $value == *= ]]; then open+=($value); else
           plain+=($value) shown+=("${value}  ${${rest#$value}#$'\\t'}"); fi;;
    esac
  done
  (( $#plain )) && compadd -l -d shown -a plain
  (( $#open )) && compadd -S '' -a open
}
if [[ $funcstack[1] == _headgate ]]; then _headgate; else compdef _headgate headgate; fi"""
# fish wants whole words back, also where `--option=` stands before what was asked for; its
# `__fish_complete_path` does not know words with a quote or a backslash.
FISH = """\
function __headgate
  set -l word (commandline -ct | string collect)
  set -l option (string match -r -- '^--[^=]*=' "$word")
  for each in (_HEADGATE_LINE=(commandline -cp | string collect) headgate 2>/dev/null)
    set -l part (string split -m 1 , -- $each)
    switch $part[1]
      case file; complete -C "'' $word"
      case dir; __fish_complete_directories "$word"
      case '*'; printf '%s\\n' "$option$part[2]"
    end
  end
end
complete -c headgate -f -a '(__headgate)'"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(options: SimpleNamespace) -> int:
    """Prints the script for the shell that was named."""
    print(SCRIPTS[options.shell])
    return 0


class Line(ShellComplete):
    """The line of any of the shells."""

    def __init__(self, line: str) -> None:
        super().__init__(HEADGATE, {}, PROGRAM, "")
        self._line = line

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is wanted, and what was typed of that one."""
        words = split_arg_string(self._line)[1:]
        is_begun = bool(words) and not self._line[-1:].isspace()
        return (words[:-1], words[-1]) if is_begun else (words, "")

    def format_completion(self, item: CompletionItem[str]) -> str:
        return f"{item.type},{item.value}" + (f"\t{item.help}" if item.help else "")


def answer(line: str, run_instance: Callable[[Sequence[str]], int]) -> int:
    """Prints how `line` may go on; the options of an instance are for its own program to say."""
    found = Line(line)
    words, begun = found.get_completion_args()
    if words[:1] == ["instance"]:
        asked = {"COMP_WORDS": shlex.join([*words, begun]), "COMP_CWORD": f"{len(words)}"}
        os.environ.update({**asked, INSTANCE: "bash_complete"})
        return run_instance([])
    if ways := found.complete():
        print(ways)
    return 0
