"""Full TLS handshakes with staple: what they cost with 1, 1,000 and 100,000 names.

`.venv/bin/python benchmarks/handshakes.py`; README.md says what it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

import attrs
import servers
import storages
from servers import Memory, Server
from storages import server_name
from tls_client import GROUPS, Client

# Handshakes with a warm name and with a cold one, by turns, that the latencies are taken of.
LATENCIES = 300

# How many certificates dwaarx holds contexts for (`certificate_cache` as it is by default).
CACHE = 10_000

# dwaarx reads what it has in the background over twenty minutes; here it takes one.
HURRIED = 200
MANAGER = "showBinds.__wrapped__.__self__._frontend.manager"


@attrs.frozen
class Latency:
    """Seconds of handshakes of a client that has the server for itself."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Work it out."""
        return cls(median(seconds), quantiles(seconds, n=100)[98])


@attrs.define
class Case:
    """One row: a server, what names are asked for, and what was measured."""

    title: str
    kind: str
    names: int
    server: Server
    started: Memory
    read: Memory | None = None
    warm: Latency | None = None
    cold: Latency | None = None
    filled: Memory | None = None
    loaded: Memory | None = None
    cpu: list[float] = attrs.Factory(list)  # seconds per handshake, by round
    rate: list[float] = attrs.Factory(list)  # handshakes per second, by round


def main() -> None:
    """Measure, print the tables."""
    options = arguments()
    with ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        say(f"load average before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs")
        cases = [start(options, folder, stack) for start in starts(options)]
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            for case in cases:
                measure(case, options, seed=number)
        for case in cases:
            case.loaded = case.server.memory()
        print_tables(cases)
        if options.json is not None:
            rows = [attrs.asdict(case, filter=lambda field, _: field.name != "server")
                    | {"start": case.server.start, "start_cpu": case.server.start_cpu,
                       "first_handshake": case.server.first_handshake}
                    for case in cases]  # fmt: skip
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the storages here for the next run")
    parser.add_argument("--names", type=int, default=100_000, help="the many (default 100000)")
    parser.add_argument("--some", type=int, default=1000, help="the fewer (default 1000)")
    parser.add_argument("--layout", choices=("one", "each"), default="one",
                        help="one site with all names, or a site for each")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case in each round")
    parser.add_argument("--clients", type=int, default=3, help="client processes")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("--quick", action="store_true", help="see that it works, in seconds")
    options = parser.parse_args()
    if options.quick:
        options.names, options.some = 60, 20
        options.rounds, options.seconds, options.clients = 2, 0.3, 2
    return options


def say(words: str) -> None:
    """Tell how it goes, beside what is printed."""
    print(words, file=sys.stderr, flush=True)


# --- starting ---------------------------------------------------------------

Start = Callable[[argparse.Namespace, Path, ExitStack], Case]


def starts(options: argparse.Namespace) -> Iterator[Start]:
    """Yield what starts each case."""
    many = f"{options.names:,} names"
    yield own("1 name", "uniform", 1)
    yield own(f"{options.some:,} names", "uniform", options.some)
    yield own(f"{many}, uniform", "uniform", options.names)
    yield own(f"{many}, zipf", "zipf", options.names)
    program = servers.nginx_program()
    if program is None:
        say("nginx is not installed (apt-get install nginx-light): nothing to compare with")
    else:
        yield other("nginx, 1 name", program)


def own(title: str, kind: str, names: int) -> Start:
    """Return what starts dwaarx with so many names, and measures it without load."""

    def start(options: argparse.Namespace, folder: Path, stack: ExitStack) -> Case:
        say(f"{title}: storage")
        storage = storages.storage(folder, names)
        if kind == "zipf":
            storage = storages.twin(storage)
        say(f"{title}: start")
        server = stack.enter_context(servers.dwaarx(storage, names, options.layout))
        case = Case(title, kind, names, server, server.memory())
        read_all(storage, names)
        case.read = server.memory()
        alone(case)
        # Warm, as far as contexts are held.
        say(f"{title}: {min(names, CACHE)} contexts")
        load(case, options, fill=min(names, CACHE), seconds=600.0)
        case.filled = server.memory()
        return case

    return start


def other(title: str, program: str) -> Start:
    """Return what starts nginx."""

    def start(_: argparse.Namespace, folder: Path, stack: ExitStack) -> Case:
        storage = storages.storage(folder, 1)
        server = stack.enter_context(servers.nginx(program, storage))
        case = Case(title, "uniform", 1, server, server.memory())
        alone(case)
        return case

    return start


def read_all(storage: Path, names: int) -> None:
    """Wait until a server has read all its certificates, which goes faster here than it would."""
    module = "__import__('dwaarx.certs.manager').certs.manager"
    hurry = f"setattr({module}, 'READS_PER_TICK', {HURRIED})"
    while True:
        left = int(servers.console(storage, f"{hurry} or len({MANAGER}._unread)"))
        if not left:
            return
        say(f"  {left} of {names} certificates to be read in the background")
        time.sleep(min(5.0, left / 1000 + 0.2))


def alone(case: Case) -> None:
    """Measure the latency of names that are warm and, if there are enough, of some that are cold.

    The cold ones are from the middle, the last that are asked for by anyone else.
    """
    client = Client(case.server.port)
    tries = min(LATENCIES, max(case.names // 3, 20))
    warm_names = range(min(case.names, 10))
    cold_names = range(case.names // 2, case.names // 2 + tries) if case.names > 2 * CACHE else ()
    for number in [*warm_names] * 3:
        client.handshake(server_name(number))
    warm: list[float] = []
    cold: list[float] = []
    for turn in range(tries):
        warm.append(client.handshake(server_name(warm_names[turn % len(warm_names)])))
        if cold_names:
            cold.append(client.handshake(server_name(cold_names[turn])))
    case.warm = Latency.of(warm)
    case.cold = Latency.of(cold) if cold else None


# --- load -------------------------------------------------------------------


def measure(case: Case, options: argparse.Namespace, seed: int) -> None:
    """Put load on one server, and take down what it cost."""
    before = case.server.cpu()
    results = load(case, options, seconds=options.seconds, seed=seed)
    used = case.server.cpu() - before
    case.cpu.append(used / sum(done for done, _ in results))
    case.rate.append(sum(done / seconds for done, seconds in results))


def load(
    case: Case,
    options: argparse.Namespace,
    *,
    seconds: float,
    seed: int = 0,
    fill: int = 0,
) -> list[tuple[int, float]]:
    """Run client processes; return the handshakes and seconds of each.

    `fill` is how many names are asked for once each; 0: as the case has it.
    """
    clients = options.clients
    processes = []
    for number in range(clients):
        kind = case.kind
        if fill:
            kind = f"{fill * number // clients}-{fill * (number + 1) // clients}"
            if fill < clients:
                kind = f"0-{fill}"
        words = [case.server.port, kind, case.names, seconds, seed * clients + number]
        processes.append(
            subprocess.Popen(
                [sys.executable, Path(__file__).with_name("tls_client.py"), *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = []
    for process in processes:
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{case.title}: a client failed")
        done, took = json.loads(output)
        results.append((done, took))
    return results


# --- telling ----------------------------------------------------------------


def print_tables(cases: Sequence[Case]) -> None:
    """Print what was measured."""
    print(f"\nFull handshakes with staple, TLS 1.3, P-256, {GROUPS}; median (least to most)\n")
    table(
        ("", "CPU µs of the server each", "handshakes/s"),
        [(case.title, spread(case.cpu, 1e6), spread(case.rate, 1)) for case in cases],
    )
    print("\nAlone with one client: p50 / p99 in ms; a cold name was not asked for before\n")
    table(
        ("", "warm", "cold"),
        [(case.title, milliseconds(case.warm), milliseconds(case.cold)) for case in cases],
    )
    print("\nStart in s: the port answers (of it CPU), the first handshake is done; memory in MB\n")
    table(
        ("", "port", "first", "RSS started", "all read", "contexts", "after load", "most"),
        [
            (
                case.title,
                f"{case.server.start:.2f} ({case.server.start_cpu:.2f})",
                f"{case.server.first_handshake:.2f}",
                *(megabytes(each) for each in (case.started, case.read, case.filled, case.loaded)),
                f"{case.loaded.most:.0f}" if case.loaded else "",
            )
            for case in cases
        ],
    )


def spread(values: Sequence[float], unit: float) -> str:
    """Say the median of the rounds, and between what they were."""
    low, middle, high = min(values) * unit, median(values) * unit, max(values) * unit
    return f"{middle:,.0f} ({low:,.0f} to {high:,.0f})"


def milliseconds(latency: Latency | None) -> str:
    """Say a latency."""
    return "" if latency is None else f"{latency.p50 * 1000:.2f} / {latency.p99 * 1000:.2f}"


def megabytes(memory: Memory | None) -> str:
    """Say how much is resident."""
    return "" if memory is None else f"{memory.now:.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *others = zip(row, widths, strict=True)
        print("  ".join((first[0].ljust(first[1]), *(word.rjust(width) for word, width in others))))


if __name__ == "__main__":
    main()
