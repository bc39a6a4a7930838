"""Run rows: `python -m benchmarks [NAME ...]`."""

import argparse
import fnmatch
import sys

from benchmarks import gpu, machine, measure, report
from benchmarks.rows import decoding, inspection, preparation, saving, serving, start, tap, time_to_loss, training

_MODULES = (training, time_to_loss, saving, start, decoding, serving, tap, inspection, preparation)


def all_rows() -> dict[str, measure.Row]:
    """Every row by name, in the order of the page."""
    return {row.name: row for module in _MODULES for row in module.rows()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="gpt2 bench", description="Measure against the field's tools, side by side.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows, * allowed; none: all; gpu: those of a CUDA GPU")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, in each of which every entry has its turn")
    parser.add_argument("--only", default="*", metavar="ENTRY", help="entries whose name matches, such as '*bf16*'")
    parser.add_argument("--list", action="store_true", help="tell the rows and stop")
    parser.add_argument("--write", action="store_true", help="keep the figures and write docs/benchmarks.md anew")
    options = parser.parse_args()
    if options.names == ["gpu"]:
        return gpu.main()
    rows = all_rows()
    if options.list:
        print("\n".join(f"{name:<22} {row.title}" for name, row in rows.items()))
        return 0
    wanted = [name for name in rows if any(fnmatch.fnmatch(name, n) for n in options.names or ["*"])]
    if not wanted or options.rounds < 1:
        what = f"no row is called {' '.join(options.names)}" if not wanted else "--rounds must be 1 or more"
        print(f"gpt2 bench: error: {what}; there is {', '.join(rows)}", file=sys.stderr)
        return 2
    for name in wanted:
        row = rows[name]
        print(f"{row.title} ({row.settings})", flush=True)
        row.entries[:] = [entry for entry in row.entries if fnmatch.fnmatch(entry.name, options.only)]
        try:
            measured = measure.run(row, options.rounds, lambda line: print(line, flush=True))
        except measure.CheckError as error:
            print(f"gpt2 bench: error: {name}: {error}", file=sys.stderr)
            return 1
        print(f"\n{report.table(measured)}\n", flush=True)
        if options.write:
            only = "" if options.only == "*" else f" --only '{options.only}'"
            command = f"gpt2 bench {name}{only} --rounds {options.rounds} --write"
            print(f"kept in {report.save(measured, machine.describe(), command)}", flush=True)
    if options.write:
        report.write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
