"""How commands end that are stopped."""

import subprocess
import sys


def test_a_reader_that_has_had_enough_is_no_error():
    """As in `mtmarl.sweep … --dry-run | head`."""
    code = "from mtmarl.errors import exit_with; exit_with(lambda: [print('x' * 99) for _ in range(10**5)])"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("x")
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 1
