"""One exception for everything a user can put right: bad options, missing or corrupt files."""


class UserError(Exception):
    """A mistake at the border. The message is one line: what, where, how to fix.

    Command lines print it and exit with code 2.
    """
