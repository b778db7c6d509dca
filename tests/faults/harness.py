"""A run: starts everything, lets the faults happen, and checks what the clients got.

Workers behind a proxy serve the clients, senders send, and the auditor reads the log. When the
schedule is through, all faults end, the senders stop, and the clients must catch up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.faults.checker import Log, Loose, check_client, check_senders
from tests.faults.clients import CALM
from tests.faults.proxy import Proxy
from tests.faults.report import Plan, Report
from tests.faults.schedule import Fault, draw
from tests.faults.services import ROOT, Services, run_services
from tests.processes import Process, free_port

#: For how many seconds anything may take before the run fails.
PATIENCE = 60.0
#: Within how many seconds of the end of all faults every client must have everything.
CATCH_UP_LIMIT = 60.0
#: How long a worker may take to end its streams and itself; far more than on a machine of its own.
SHUTDOWN_LIMIT = 10.0
#: Within how many seconds of the end of all faults every client must get events at once again.
CALM_LIMIT = 60.0


class Slot:
    """A place for one process after another: ``w0-1``, ``w0-2`` …"""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.process: Process | None = None
        self.port = 0
        #: Held by whoever ends and starts processes here.
        self.lock = asyncio.Lock()

    @property
    def full_name(self) -> str:
        return f"{self.name}-{self.count}"


class Harness:
    """One run."""

    def __init__(self, plan: Plan, services: Services, proxy: Proxy, report: Report) -> None:
        self._plan = plan
        self._services = services
        self._proxy = proxy
        self._report = report
        self._channels = [f"channel-{number}" for number in range(plan.channels)]
        self._workers = [Slot(f"w{number}") for number in range(plan.workers)]
        self._senders = [Slot(f"s{number}") for number in range(plan.senders)]
        self._killed: set[str] = set()
        self._log = Log()
        self._orders: dict[str, Any] = {"stop": False, "clocks": {}, "die": []}
        self._control = services.folder / "control.json"
        self._sent = services.folder / "sent.jsonl"
        self._sent.touch()
        self._database = asyncio.Lock()
        self._redis = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._status: dict[str, Any] = {}
        self._clients: asyncio.subprocess.Process | None = None
        self._auditor: asyncio.subprocess.Process | None = None
        self._errors: list[str] = []

    async def run(self, tell: Callable[[str], None]) -> None:
        self._order()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._end_processes)
            await asyncio.gather(*[self._start_worker(slot) for slot in self._workers])
            self._auditor = await stack.enter_async_context(
                self._child("tests.faults.auditor", ",".join(self._channels))
            )
            self._clients = await stack.enter_async_context(self._child("tests.faults.clients"))
            plan = self._plan
            self._tell_clients(
                seed=plan.seed, clients=plan.clients, channels=self._channels, port=self._proxy.port
            )
            listening = asyncio.create_task(self._listen_to_clients())
            stack.callback(listening.cancel)
            await self._until(lambda: self._status.get("opened") == plan.clients, "all are there")
            for slot in self._senders:
                self._start_sender(slot)
            await self._have_faults(tell)
            await self._become_calm(tell)
            await self._come_to_rest(tell)
            path = self._services.folder / "clients.jsonl"
            self._tell_clients(do="finish", file=str(path))
            await asyncio.wait_for(self._clients.wait(), PATIENCE)
        self._check(path)

    # The schedule

    async def _have_faults(self, tell: Callable[[str], None]) -> None:
        plan = self._plan
        faults = draw(plan.backend, plan.seed, plan.duration)
        running: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        latest = ""
        while True:
            now = time.monotonic() - began
            while faults and faults[0].at <= now:
                fault = faults.pop(0)
                self._report.faults[fault.kind] += 1
                running.add(asyncio.create_task(self._happen(fault)))
                latest = str(fault)
            for task in [task for task in running if task.done()]:
                running.remove(task)
                task.result()
            self._watch()
            delivered = self._status["delivered"]
            tell(
                f"{now:6.1f} of {plan.duration:.0f} s  {self._status['connected']:5d} connected"
                f"  {delivered:8d} of {plan.deliveries} delivered  latest: {latest}"
            )
            enough = delivered >= plan.deliveries or now > 2 * plan.duration + PATIENCE
            if enough and now > plan.duration and not (faults or running):
                break
            await asyncio.sleep(0.1)
        self._report.seconds = time.monotonic() - began

    async def _happen(self, fault: Fault) -> None:
        act: Callable[[random.Random], Awaitable[None]]
        act = getattr(self, "_" + fault.kind.replace(" ", "_"))
        await act(random.Random(fault.seed))

    async def _connections_reset(self, source: random.Random) -> None:
        self._proxy.reset(source.uniform(0.05, 0.7), source)

    async def _slow_readers(self, source: random.Random) -> None:
        share, seconds = source.uniform(0.05, 0.3), source.uniform(1, 6)
        self._tell_clients(do="slow", share=share, seconds=seconds, seed=source.random())

    async def _newcomers(self, source: random.Random) -> None:
        self._tell_clients(do="newcomers", share=source.uniform(0.01, 0.05), seed=source.random())

    async def _worker_killed(self, source: random.Random) -> None:
        slot = source.choice(self._workers)
        async with slot.lock:
            assert slot.process is not None
            slot.process.kill()
            # For a moment the proxy does not know.
            await asyncio.sleep(source.choice([0, 0.3, 1.5]))
            self._proxy.workers.remove(slot.port)
            self._forget(slot)
            await self._start_worker(slot)

    async def _worker_frozen(self, source: random.Random) -> None:
        slot = source.choice(self._workers)
        async with slot.lock:
            assert slot.process is not None
            slot.process.popen.send_signal(signal.SIGSTOP)
            await asyncio.sleep(source.uniform(0.2, 4))
            slot.process.popen.send_signal(signal.SIGCONT)

    async def _rolling_restart(self, source: random.Random) -> None:
        for slot in self._workers:
            async with slot.lock:
                old, port = slot.process, slot.port
                assert old is not None
                await self._start_worker(slot)
                self._proxy.workers.remove(port)
                began = time.monotonic()
                old.popen.terminate()
                await self._until(lambda: old.popen.poll() is not None, f"{slot.name} ends")  # noqa: B023
                took = time.monotonic() - began
                self._report.shutdown = max(self._report.shutdown, took)
                if took > SHUTDOWN_LIMIT:
                    self._errors.append(f"{slot.full_name} took {took:.1f} s to end")
                self._read_output(old)

    async def _sender_killed(self, source: random.Random) -> None:
        slot = source.choice(self._senders)
        async with slot.lock:
            self._kill_sender(slot)
            self._start_sender(slot)

    async def _sender_dies_after_commit(self, source: random.Random) -> None:
        slot = source.choice(self._senders)
        async with slot.lock:
            assert slot.process is not None
            self._order(die=[*self._orders["die"], slot.full_name])
            popen = slot.process.popen
            await self._until(lambda: popen.poll() is not None, f"{slot.full_name} dies")
            self._kill_sender(slot)
            self._start_sender(slot)

    async def _messages_lost(self, source: random.Random) -> None:
        await self._for_a_while(source, lose=source.choice([0.02, 0.3, 1]))

    async def _messages_repeated(self, source: random.Random) -> None:
        await self._for_a_while(source, repeat=source.choice([0.1, 1]))

    async def _messages_delayed(self, source: random.Random) -> None:
        await self._for_a_while(source, delay=source.choice([0.1, 0.5, 1]))

    async def _messages_garbled(self, source: random.Random) -> None:
        await self._for_a_while(source, garble=source.choice([0.02, 0.3]))

    async def _for_a_while(self, source: random.Random, **orders: float) -> None:
        self._order(**orders)
        await asyncio.sleep(source.uniform(1, 4))
        self._order(**dict.fromkeys(orders, 0))

    async def _clocks_moved(self, source: random.Random) -> None:
        slots = [*self._workers, *self._senders]
        # Less than events are kept for.
        clocks = {slot.name: source.uniform(-40_000, 40_000) for slot in slots}
        await self._for_a_while(source, clocks={**clocks, source.choice(slots).name: 0})
        self._order(clocks={})

    async def _log_trimmed(self, source: random.Random) -> None:
        keep = source.choice([0, 3, 20])
        self._proxy.reset(0.3, source)
        await self._read_log()
        ids = {channel: max(0, last - keep) for channel, last in self._log.current_ids().items()}
        self._log.trims.append((time.monotonic(), ids))
        for channel, last in ids.items():
            await self._ask(f"trim {channel} {last}")
        await self._newcomers(source)  # who ask for what is gone

    async def _database_restarted(self, source: random.Random) -> None:
        await self._database_down(source, "stop")

    async def _database_killed(self, source: random.Random) -> None:
        await self._database_down(source, "kill")

    async def _database_crashed(self, source: random.Random) -> None:
        """Kill one of its processes, at which the server ends all others and recovers."""
        async with self._database:
            rows = await asyncio.to_thread(
                self._services.query,
                "SELECT pid FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid != pg_backend_pid()",
            )
            if rows:
                os.kill(source.choice(rows)[0], signal.SIGKILL)

    async def _database_down(self, source: random.Random, how: str) -> None:
        server = self._services.postgresql
        async with self._database:
            await asyncio.to_thread(getattr(server, how))
            await asyncio.sleep(source.choice([0, 1, 4]))
            assert server is not None
            await asyncio.to_thread(server.start)

    async def _database_connections_terminated(self, source: random.Random) -> None:
        await self._terminate("backend_type = 'client backend'")

    async def _listeners_terminated(self, source: random.Random) -> None:
        await self._terminate("query ILIKE 'LISTEN%'")

    async def _terminate(self, condition: str) -> None:
        async with self._database:
            await asyncio.to_thread(
                self._services.query,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE {condition} AND pid != pg_backend_pid()",
            )

    async def _log_locked(self, source: random.Random) -> None:
        async with self._database:
            await asyncio.to_thread(self._services.lock_log, source.uniform(0.5, 4))

    async def _redis_killed(self, source: random.Random) -> None:
        async with self._redis:
            server = self._services.redis
            assert server is not None
            server.kill()
            await asyncio.sleep(source.choice([0, 1, 4]))
            await asyncio.to_thread(server.start)

    async def _redis_frozen(self, source: random.Random) -> None:
        async with self._redis:
            server = self._services.redis
            assert server is not None
            server.pause()
            await asyncio.sleep(source.uniform(1, 7))  # longer than clients wait
            server.resume()

    async def _redis_connections_terminated(self, source: random.Random) -> None:
        async with self._redis:
            assert self._services.redis is not None
            kind = source.choice(["pubsub", "normal"])
            self._services.redis.command("CLIENT", "KILL", "TYPE", kind)

    # The end

    async def _become_calm(self, tell: Callable[[str], None]) -> None:
        """See that events arrive at once again: what is not, is only found by the poll."""
        began = time.monotonic()
        await asyncio.sleep(CALM)
        while (calm := self._status["calm"]) < self._plan.clients:
            self._watch()
            tell(f"The faults are over, {calm} clients get events at once")
            if time.monotonic() > began + CALM_LIMIT:
                late = self._plan.clients - calm
                self._errors.append(f"{late} clients get events late, {CALM_LIMIT} s after all")
                break
            await asyncio.sleep(0.2)
        self._report.calm = time.monotonic() - began

    async def _come_to_rest(self, tell: Callable[[str], None]) -> None:
        """Have the senders stop and the clients catch up."""
        self._order(stop=True)
        for slot in self._senders:
            assert slot.process is not None
            popen = slot.process.popen
            await self._until(lambda: popen.poll() is not None, f"{slot.name} stops")  # noqa: B023
            if popen.returncode:
                self._errors.append(f"{slot.full_name}: {slot.process.output()[-2000:]}")
        began = time.monotonic()
        while (pending := await self._read_log()) and time.monotonic() < began + PATIENCE:
            await asyncio.sleep(0.2)
        if pending:
            self._errors.append(f"{pending} events were not numbered within {PATIENCE} s")
            await self._read_log()
        ids = self._log.current_ids()
        self._tell_clients(
            do="targets", targets={channel: ids.get(channel, 0) for channel in self._channels}
        )
        while time.monotonic() < began + CATCH_UP_LIMIT:
            caught_up = self._status["caught_up"]
            tell(f"The faults are over, {caught_up} clients have everything")
            if caught_up == self._plan.clients:
                break
            await asyncio.sleep(0.1)
        self._report.caught_up = time.monotonic() - began

    def _check(self, path: Path) -> None:
        report, log = self._report, self._log
        report.committed = sum(map(len, log.events.values()))
        report.connections_reset = self._proxy.resets
        reports = [json.loads(line) for line in self._sent.read_text().splitlines()]
        report.deviations = [*self._errors, *log.deviations]
        report.deviations += check_senders(reports, log, self._killed)
        loose = Loose()
        for sent in reports:
            loose.receive_report(sent)
        with path.open() as file:
            texts = json.loads(next(file))
            for line in file:
                number, channels, record = json.loads(line)
                for entry in record:
                    entry[2] = texts[entry[2]]
                check_client(number, channels, record, log, loose, report.figures)
        report.deviations += report.figures.deviations

    # Processes

    async def _start_worker(self, slot: Slot) -> None:
        slot.count += 1
        port = free_port()
        command = [
            *(sys.executable, "-m", "uvicorn", "tests.faults.worker:application"),
            *("--port", str(port), "--log-level", "warning"),
        ]
        process = Process(command, env=self._environment(slot))
        slot.process, slot.port = process, port
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if process.popen.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{slot.full_name}: {process.output()}") from None
                await asyncio.sleep(0.1)
            else:
                writer.close()
                break
        self._proxy.workers.append(port)

    def _start_sender(self, slot: Slot) -> None:
        slot.count += 1
        plan = self._plan
        command = [sys.executable, "-m", "tests.faults.senders", str(plan.seed)]
        command += [str(plan.event_rate), ",".join(self._channels), str(self._sent)]
        slot.process = Process(command, env=self._environment(slot))

    def _kill_sender(self, slot: Slot) -> None:
        assert slot.process is not None
        self._killed.add(slot.full_name)
        slot.process.kill()
        slot.process.forget()
        slot.process = None

    def _forget(self, slot: Slot) -> None:
        assert slot.process is not None
        self._read_output(slot.process)
        slot.process = None

    def _read_output(self, process: Process) -> None:
        """Count what a process that has ended had to say."""
        for line in process.output().splitlines():
            if line and not line[0].isspace() and not line.startswith("Traceback"):
                line = re.sub(r"^[\d.]+ ", "", line)  # the time
                self._report.logged[re.sub(r"\d+", "#", line)[:160]] += 1
        process.forget()

    def _end_processes(self) -> None:
        for slot in [*self._workers, *self._senders]:
            if slot.process is not None:
                slot.process.kill()
                self._forget(slot)

    def _watch(self) -> None:
        """Fail if a process has ended that should not have."""
        for slot in [*self._workers, *self._senders]:
            process = slot.process
            if process and process.popen.poll() is not None and not slot.lock.locked():
                raise RuntimeError(f"{slot.full_name} ended: {process.output()[-3000:]}")

    def _environment(self, slot: Slot) -> dict[str, str]:
        return {
            **self._services.environment,
            "EVENTSTREAM_FAULTS_CONTROL": str(self._control),
            "EVENTSTREAM_FAULTS_NAME": slot.full_name,
            "EVENTSTREAM_FAULTS_DEFECT": self._plan.defect,
        }

    @contextlib.asynccontextmanager
    async def _child(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a process that takes orders."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *arguments),
            env=self._services.environment,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 28,
        )
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    # Orders and answers

    def _order(self, **orders: Any) -> None:
        self._orders |= orders
        new = self._control.with_suffix(".new")
        new.write_text(json.dumps(self._orders))
        os.replace(new, self._control)

    def _tell_clients(self, **order: Any) -> None:
        assert self._clients is not None and self._clients.stdin is not None
        self._clients.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen_to_clients(self) -> None:
        assert self._clients is not None and self._clients.stdout is not None
        async for line in self._clients.stdout:
            self._status = json.loads(line)

    async def _read_log(self) -> int:
        """Read what is new in the log; return how many events have no number yet."""
        answer = await self._ask("read")
        for row in answer["rows"]:
            self._log.receive_row(*row)
        pending: int = answer["pending"]
        return pending

    async def _ask(self, order: str) -> dict[str, Any]:
        """Ask the auditor, again while the log cannot be read."""
        deadline = time.monotonic() + PATIENCE
        auditor = self._auditor
        assert auditor is not None and auditor.stdin is not None and auditor.stdout is not None
        while True:
            async with self._asking:
                auditor.stdin.write(order.encode() + b"\n")
                answer: dict[str, Any] = json.loads(await auditor.stdout.readline())
            if "error" not in answer:
                return answer
            if time.monotonic() > deadline:
                raise RuntimeError(f"the auditor cannot {order}: {answer}")
            await asyncio.sleep(0.2)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {PATIENCE} s: {what}")
            await asyncio.sleep(0.05)


def run(plan: Plan, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Run a plan; ``tell`` is called with a line on the progress, again and again."""
    report = Report(plan)

    async def run_with(services: Services) -> None:
        async with Proxy(random.Random(plan.seed)) as proxy:
            await Harness(plan, services, proxy, report).run(tell)

    with run_services(plan.backend) as services:
        try:
            asyncio.run(run_with(services))
        except Exception as error:
            raise RuntimeError(f"To replay: {plan.command}") from error
    return report
