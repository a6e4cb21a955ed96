"""The command line of the benchmarks: `python -m bench.run [ROW …]`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from asyncpg import PostgresError
from redis.exceptions import RedisError

from bench.checkout_rows import CHECKOUT_ROWS
from bench.errors import RowAborted
from bench.machine import busy_percent
from bench.mail_rows import MAIL_ROWS
from bench.order_rows import ORDER_ROWS
from bench.plot import draw
from bench.processes import install_node_packages
from bench.queue_rows import QUEUE_ROWS
from bench.report import number, table, to_json, write
from bench.rows import Options, Result, Row, Side, Values
from orderflow.sandbox.servers import ServerError

#: From where on a machine is too busy for a run.
_BUSY_PERCENT = 15

_RESULTS = Path(__file__).with_name("results")
_ROWS = {row.name: row for row in [*QUEUE_ROWS, *CHECKOUT_ROWS, *ORDER_ROWS, *MAIL_ROWS]}


def main() -> int:
    """Run the rows that are asked for; return the exit status.

    That is 0 also where a row missed its must, since this measures and does not judge; 1 when a
    row could not be measured.
    """
    chosen, options = _read_arguments()
    # SIGINT too: a shell that starts this in the background has it ignored.
    for number_ in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number_, _interrupt)
    try:
        return _run(chosen, options)
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
        return 130


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _read_arguments() -> tuple[list[Row], Options]:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(_ROWS))
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side (default 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    parser.add_argument("--size", type=int, default=5_000_000, help="orders of the row size")
    parser.add_argument("--log-level", default="info", help="of both sides (default info)")
    given = parser.parse_args()
    unknown = [name for name in given.rows if name not in _ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; the rows are {', '.join(_ROWS)}")
    rows = [_ROWS[name] for name in given.rows or _ROWS]
    return rows, Options(given.pairs, given.quick, given.size, given.log_level)


def _run(rows: Sequence[Row], options: Options) -> int:
    results: list[Result] = []
    aborted: dict[str, str] = {}
    file = _RESULTS / ("quick.json" if options.quick else "latest.json")
    for row in rows:
        try:
            install_node_packages()
            found = _run_row(row, options)
        except (RowAborted, ServerError, RedisError, PostgresError) as error:
            aborted[row.name] = str(error)
            _say(f"{row.name}: aborted: {error}")
            continue
        results += found
        # At once, so that a later row that hangs costs nothing of this one.
        write(file, {r.measure.name: to_json(r, options) for r in found}, _order())
    if results:
        draw(file)
        _say(f"\n{table(results)}\n\n{_short(file)} and the .png beside it are written.")
    for name, reason in aborted.items():
        _say(f"\n{name} was not measured: {reason}")
    return 1 if aborted else 0


def _short(file: Path) -> Path:
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _order() -> list[str]:
    return [measure.name for row in _ROWS.values() for measure in row.measures]


def _run_row(row: Row, options: Options) -> list[Result]:
    """Measure the two sides in turn, and say how it goes."""
    started = time.monotonic()
    _say(f"{row.name}: {row.ours} against {row.peer}")
    busiest = 0.0
    values: dict[Side, dict[str, list[float]]] = {side: {} for side in Side}
    with row.open(options) as measure:
        for pair in range(1, options.pairs + 1):
            for side in Side:
                busy = busy_percent()
                busiest = max(busiest, busy)
                measured = measure(side)
                for name, value in measured.items():
                    values[side].setdefault(row.name + name, []).append(value)
                told = f"{_told(measured)}{_warning(busy)}"
                _say(f"  {pair} of {options.pairs}  {side.value}  {told}")
    _say(f"  took {time.monotonic() - started:.0f} s")
    return [
        Result(measure, values[Side.PEER][measure.name], values[Side.OURS][measure.name], busiest)
        for measure in row.measures
        if measure.name in values[Side.OURS]
    ]


def _told(values: Values) -> str:
    return ", ".join(f"{name.strip('-')} {number(v)}".strip() for name, v in values.items())


def _warning(busy: float) -> str:
    """Return what is to be said of a machine that others use too."""
    if busy < _BUSY_PERCENT:
        return ""
    return f"   (before it, others used {busy:.0f} % of the machine)"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
