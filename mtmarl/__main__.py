"""The command `mtmarl`: `mtmarl train +algo=mt_oryx …` is `python -m mtmarl.train +algo=mt_oryx …`."""

import runpy
import sys

from mtmarl import terminal
from mtmarl.parsing import suggest

COMMANDS = {
    "train": "train on vaults, or by acting",
    "collect": "train online and record vaults",
    "evaluate": "score a saved policy on any task",
    "report": "tables, curves and intervals of runs",
    "sweep": "many runs, from one file",
    "vault": "list, describe, verify, import, convert, pull, push data",
    "export": "write a policy as files that act without this library",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        terminal.say("usage: mtmarl COMMAND [options]", "")
        terminal.say(*(f"  {command:<10} {what}" for command, what in COMMANDS.items()))
        terminal.say("", "`mtmarl COMMAND --help` lists the options of a command.")
        return
    if name not in COMMANDS:
        terminal.say(f"error: {name}: no such command{suggest(name, COMMANDS)}", error=True)
        sys.exit(2)
    sys.argv[:2] = [f"mtmarl {name}"]
    runpy.run_module(f"mtmarl.{name}", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
