"""The `gateway` command, which is `python -m gateway` too."""

import gc
import os

# Texts are scored in small matrices, of which threads would only wait for each other; a worker has one core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What importing makes stays. Looking through it for garbage would take a fifth of the start.
gc.disable()

from gateway.cli import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
