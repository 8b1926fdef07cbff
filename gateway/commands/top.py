"""`gateway top`: what burns, as it changes; a run is killed by a key or by `--kill`."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer

from gateway.commands import views
from gateway.commands.client import AdminClient, ClientError, Unreachable, quoted
from gateway.commands.console import AsJson, client, print_json
from gateway.commands.top_screen import ORDERS, Order, View, ordered, screen

app = typer.Typer()

ONCE_WIDTH = 120
"""Of a look into a file or a pipe."""
REASON = "killed in gateway top"
_UP, _DOWN = ("up", "w"), ("down", "x")


@app.command()
def top(
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option(help="Look once.")] = False,
    sort: Annotated[str, typer.Option(help="burn cost steps age limit")] = "burn",
    kill: Annotated[str | None, typer.Option(metavar="RUN", help="Kill a run, then look.")] = None,
    as_json: AsJson = False,
) -> None:
    """What burns: spend rate, live runs, the fullest budgets, breakers, what was refused and killed lately.

    On a terminal it goes on until q or Ctrl-C; k kills the selected run after a y.
    """
    if sort not in ORDERS.values():
        raise typer.BadParameter(f"got {sort!r}, expected one of {', '.join(ORDERS.values())}")
    order: Order = sort  # type: ignore[assignment]  # checked just above
    admin = client()
    if kill is not None:
        done = admin.post(f"/runs/{quoted(kill)}/kill", {"reason": REASON})
        print(views.killed(done), file=sys.stderr)
    if as_json:
        print_json(admin.get("/overview"))
    elif once or not sys.stdout.isatty():
        width = shutil.get_terminal_size((ONCE_WIDTH, 24)).columns if sys.stdout.isatty() else ONCE_WIDTH
        view = View(order=order, keys=False, unicode=_is_unicode())
        print("\n".join(line.text for line in screen(admin.get("/overview"), view, width, None)))
    else:
        _live(Session(admin, View(order=order, keys=sys.stdin.isatty(), unicode=_is_unicode())), interval)


def _is_unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()


@dataclass(slots=True)
class Session:
    """An operator in front of the live view: what they chose, and what was seen last."""

    admin: AdminClient
    view: View
    overview: dict[str, Any] | None = None
    paused: bool = False
    chosen: str | None = None
    """Id of the selected run: it stays selected when the order changes."""
    asks: str | None = None
    """Id of the run that is to be killed, once the operator has said y."""
    left: bool = field(default=False)

    def look(self) -> None:
        """Ask the gateway, unless paused; trouble is told in the last line, and the old picture stays."""
        if self.paused and self.overview is not None:
            return
        try:
            self.overview = self.admin.get("/overview")
        except Unreachable as error:
            self.view = replace(self.view, message=str(error).partition(". ")[0])
            return
        except ClientError as error:
            if self.overview is None:
                raise
            self.view = replace(self.view, message=str(error))
            return
        if self.asks is None and not self.paused:
            self.view = replace(self.view, message="")
        self._follow()

    def _rows(self) -> list[Any]:
        return list(ordered(self.overview, self.view.order)) if self.overview is not None else []

    def _follow(self) -> None:
        """Keep the selection on its run."""
        ids = [row["id"] for row in self._rows()]
        if self.chosen in ids:
            self.view = replace(self.view, selected=ids.index(self.chosen))
        elif ids:
            selected = min(self.view.selected, len(ids) - 1)
            self.view = replace(self.view, selected=selected)
            self.chosen = ids[selected] if self.chosen is not None else None

    def press(self, key: str) -> None:
        """Do what a key says."""
        if self.asks is not None:
            self._answer(key)
        elif key in ("q", "\x03", "\x04"):
            self.left = True
        elif key == "p":
            self.paused = not self.paused
            self.view = replace(self.view, message="paused; p goes on" if self.paused else "")
        elif key in ORDERS:
            self.view = replace(self.view, order=ORDERS[key], message="")
            self._follow()
        elif key in (*_UP, *_DOWN):
            self._move(-1 if key in _UP else 1)
        elif key == "k":
            self._ask()

    def _move(self, by: int) -> None:
        rows = self._rows()
        if rows:
            selected = max(0, min(len(rows) - 1, self.view.selected + by))
            self.chosen = rows[selected]["id"]
            self.view = replace(self.view, selected=selected, message="")

    def _ask(self) -> None:
        rows = self._rows()
        if not rows:
            self.view = replace(self.view, message="There is no live run.")
            return
        run = rows[min(self.view.selected, len(rows) - 1)]
        self.asks = self.chosen = run["id"]
        self.view = replace(
            self.view, message=f"Kill {run['id']} of {run['user']}? y kills, any other key does not."
        )

    def _answer(self, key: str) -> None:
        run, self.asks = self.asks, None
        if key.lower() != "y" or run is None:
            self.view = replace(self.view, message="Not killed.")
            return
        try:
            done = self.admin.post(f"/runs/{quoted(run)}/kill", {"reason": REASON})
            message = views.killed(done).partition("\n")[0]
        except ClientError as error:
            message = str(error)
        self.view = replace(self.view, message=message)


def _live(session: Session, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)

    def picture() -> Text:
        size = console.size
        lines = (
            screen(session.overview or {}, session.view, size.width, size.height) if session.overview else []
        )
        text = Text(no_wrap=True, overflow="crop", end="")
        for number, line in enumerate(lines):
            text.append("\n" if number else "")
            text.append(line.text, style=line.style)
        return text if lines else Text(views.plain(session.view.message))

    with (
        _keyboard() as keys,
        _interruptible(session),
        Live(Text(""), console=console, auto_refresh=False, screen=True) as live,
    ):
        try:
            while not session.left:
                session.look()
                until = time.monotonic() + interval
                live.update(picture(), refresh=True)
                while not session.left and (left := until - time.monotonic()) > 0:
                    # A new size is seen at the latest with the next look.
                    if keys is None:
                        time.sleep(left)
                    elif (key := keys.wait(left)) is not None:
                        session.press(key)
                        live.update(picture(), refresh=True)
        except KeyboardInterrupt:
            return


@contextlib.contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """Ctrl-C ends the view even where its exception is lost: one that arrives while an object is finalised is
    told to nobody."""

    def leave(_signal: int, _frame: object) -> None:
        session.left = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_ARROWS = {b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down"}


class _Keys:
    """Keys of a terminal, one at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read = b""

    def wait(self, seconds: float) -> str | None:
        """The next key within so many seconds; `up` and `down` for arrows, `escape` for others like them."""
        if not self._read:
            if not select.select([self._fd], [], [], max(0.0, seconds))[0]:
                return None
            self._read = os.read(self._fd, 64)
            if not self._read:
                # The terminal is gone.
                return "q"
        if self._read.startswith(b"\x1b"):
            # Whatever else begins so must not be taken for the letters in it.
            sequence, self._read = self._read[:3], self._read[3:] if self._read[:3] in _ARROWS else b""
            return _ARROWS.get(sequence, "escape")
        key, self._read = self._read[:1], self._read[1:]
        return key.decode("latin-1")


@contextlib.contextmanager
def _keyboard() -> Iterator[_Keys | None]:
    """The terminal's keys as they are pressed, and the terminal as it was at the end; None without one."""
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (OSError, ValueError, termios.error):
        yield None
        return
    try:
        tty.setcbreak(fd)
        yield _Keys(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
