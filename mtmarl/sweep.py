"""`python -m mtmarl.sweep +sweep=model_size`: a grid of training runs and the report over it.

A sweep is one YAML file in configs/sweep: axes whose product is the grid, profiles that fit it to a machine, and the
published claims that the report sets beside the results. Each run is one process of `mtmarl.train`. The same
command again goes on where it stopped. A run that another sweep has finished beside it is copied, not made again; one
that a file of facts holds, of this sweep or another, is counted as it stands there.
"""

import sys

from mtmarl import terminal
from mtmarl.errors import UserError, exit_with, failed
from mtmarl.sweeps.options import help_text, read_options
from mtmarl.sweeps.run import run_sweep


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        if any(a in ("-h", "--help") for a in argv):
            terminal.say(*help_text().splitlines())
            return 0
        return run_sweep(read_options(argv))
    except (UserError, OSError) as error:
        return failed(error)


if __name__ == "__main__":
    exit_with(main, "the same command goes on from here")
