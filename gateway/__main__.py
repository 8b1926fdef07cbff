"""The `gateway` command, which is `python -m gateway` too."""

import gc

# What importing makes stays. Looking through it for garbage would take a fifth of the start.
gc.disable()

from gateway.cli import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
