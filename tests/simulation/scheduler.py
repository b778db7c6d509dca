"""Event loops on a clock of their own, whose steps are chosen by a seed.

Each simulated process has an event loop. What else may happen at any time (a database's answer,
a message that arrives, a sender on a thread) is a *job*. A step runs the next callback of one
loop, or one job, chosen at random; when nothing is ready, time jumps to the next timer.

Loops keep asyncio's word that callbacks run in the order in which they were scheduled, or, when
``unruly``, not even that.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections import deque
from itertools import count

#: How likely a callback takes so long that the next timer is due, if that is due soon.
SLOW_STEP = 0.04
SOON = 0.05
#: How likely another step comes before a thread goes on, and how deep that nests.
PREEMPTION = 0.25
MAX_DEPTH = 3


class Killed(BaseException):
    """The process of the running job does not exist any more."""


class Task(asyncio.Task):
    """A task whose hash is no address: sets of tasks have one order in every replay."""

    def __init__(self, coroutine, *, number, **kwargs):
        self.number = number
        super().__init__(coroutine, name=f"task {number}", **kwargs)

    def __hash__(self):
        return self.number


class Handle:
    """A callback that was scheduled."""

    __slots__ = ("_args", "_callback", "_context", "is_cancelled")

    def __init__(self, callback, args, context):
        self._callback = callback
        self._args = args
        self._context = context or contextvars.copy_context()
        self.is_cancelled = False

    def cancel(self):
        self.is_cancelled = True

    def cancelled(self):
        return self.is_cancelled

    def run(self):
        self._context.run(self._callback, *self._args)


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process; it knows nothing of sockets and threads."""

    def __init__(self, scheduler, process):
        self.scheduler = scheduler
        self.process = process
        self.ready = deque()
        self.tasks = []
        #: Whether one of its callbacks is running, maybe further down on the stack.
        self.busy = False
        self.closed = False

    # What asyncio and the package ask for

    def time(self):
        return self.scheduler.now

    def get_debug(self):
        return False

    def is_closed(self):
        return self.closed

    def is_running(self):
        return self.busy

    def create_future(self):
        return asyncio.Future(loop=self)

    def get_task_factory(self):
        return None

    def create_task(self, coroutine, **kwargs):
        task = Task(coroutine, loop=self, number=next(self.scheduler.numbers), **kwargs)
        self.tasks.append(task)
        return task

    def call_soon(self, callback, *args, context=None):
        handle = Handle(callback, args, context)
        if not self.closed:  # only what is left of killed tasks schedules after that
            self.ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):
        if self.closed:
            raise RuntimeError("Event loop is closed")
        return self.call_soon(callback, *args, context=context)

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self.scheduler.now + delay, callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None):
        handle = Handle(callback, args, context)
        if not self.closed:
            self.scheduler.add_timer(when, self, handle)
        return handle

    def call_exception_handler(self, context):
        if not self.closed:
            self.scheduler.fail(
                f"{self.process}: {context['message']}: {context.get('exception')!r}"
            )

    # For the simulation

    def close(self):
        """Stop for good, in the middle of everything."""
        self.closed = True
        self.ready.clear()

    def unfinished(self):
        return [task for task in self.tasks if not task.done()]


class Scheduler:
    """What happens next.

    ``processes`` change on the way; the loop of each takes part while it is not closed.
    """

    def __init__(self, seed, *, unruly=False):
        self.random = random.Random(seed)
        self.unruly = unruly
        self.now = 1000.0
        self.steps = 0
        self.numbers = count(1)
        self.loops = []
        self.jobs = []
        self.failures = []
        self.trace = None
        #: The process whose code runs, or ran last.
        self.current = None
        #: What belongs to the running thread (its transaction).
        self.local = None
        #: A loop that gets few turns, as if its process had little of the processor.
        self.starved = None
        self._timers = []
        self._depth = 0

    # What may happen

    def add_loop(self, process):
        loop = Loop(self, process)
        self.loops.append(loop)
        return loop

    def add_timer(self, when, loop, handle):
        heapq.heappush(self._timers, (when, next(self.numbers), loop, handle))

    def later(self, delay, process, function, *args):
        """Have a job done for a process (None: the outside), unless that is killed before."""
        job = (process, function, args)
        if delay > 0:
            heapq.heappush(self._timers, (self.now + delay, next(self.numbers), None, job))
        else:
            self.jobs.append(job)

    def latency(self):
        """Return how long something takes outside: mostly little."""
        kind = self.random.random()
        if kind < 0.5:
            return 0.0
        if kind < 0.8:
            return self.random.uniform(0, 0.01)
        if kind < 0.97:
            return self.random.uniform(0, 0.06)
        return self.random.uniform(0, 0.4)

    # What happens

    def step(self):
        """Let something happen; return False when nothing is left to happen."""
        while True:
            if self._timers and self._timers[0][0] <= self.now:
                self._fire_timers()
            loops = [loop for loop in self.loops if loop.ready and not loop.busy]
            total = len(loops) + len(self.jobs)
            if total:
                break
            if self._depth or not self._timers:
                return False
            self.now = self._timers[0][0]
        choose = self.random.random
        if self._timers and choose() < SLOW_STEP and self._timers[0][0] < self.now + SOON:
            self.now = max(self.now, self._timers[0][0])
        if total > 1 and self.starved in loops and choose() < 0.9:
            loops.remove(self.starved)
            total -= 1
        index = int(choose() * total)
        self.steps += 1
        if index < len(loops):
            loop = loops[index]
            ready = loop.ready
            if self.unruly and len(ready) > 1:
                ready.rotate(-int(choose() * len(ready)))
            self._run_handle(loop, ready.popleft())
        else:
            self._run_job(*self.jobs.pop(index - len(loops)))
        return True

    def pause(self):
        """Let other things happen in the middle of a thread's work."""
        process = self.current
        while self._depth < MAX_DEPTH and self.random.random() < PREEMPTION:
            if not self.step():
                break
        if process is not None and not process.alive:
            raise Killed

    def note(self, text):
        """Write down what happened, if somebody wants to know."""
        if self.trace is not None:
            self.trace.append(f"{self.now - 1000:8.3f} {self.steps:5} {'  ' * self._depth}{text}")

    def fail(self, text):
        """Note that a promise was broken."""
        self.note(f"FAILURE {text}")
        self.failures.append(text)

    def enter(self, process):
        """Be in a process: the package's module globals become those of that process."""
        if process is not self.current:
            if self.current is not None:
                self.current.leave()
            if process is not None:
                process.enter()
            else:
                asyncio._set_running_loop(None)
            self.current = process

    # Inside

    def _fire_timers(self):
        while self._timers and self._timers[0][0] <= self.now:
            _, _, loop, handle = heapq.heappop(self._timers)
            if loop is None:
                self.jobs.append(handle)
            elif not loop.closed and not handle.is_cancelled:
                loop.ready.append(handle)

    def _run_handle(self, loop, handle):
        if handle.is_cancelled:
            return
        before = self._depth and (self.current, self.local, asyncio._get_running_loop())
        self.enter(loop.process)
        self.local = None
        asyncio._set_running_loop(loop)
        loop.busy = True
        self._depth += 1
        try:
            handle.run()
        except Killed:
            pass
        except Exception as error:
            self.fail(f"{loop.process}: a callback raised {error!r}")
        finally:
            self._depth -= 1
            loop.busy = False
            if before:
                self._return(*before)

    def _run_job(self, process, function, args):
        if process is not None and not process.alive:
            return
        before = self._depth and (self.current, self.local, asyncio._get_running_loop())
        if process is not None:
            self.enter(process)
        self.local = None
        asyncio._set_running_loop(None)
        self._depth += 1
        try:
            function(*args)
        except Killed:
            pass
        except Exception as error:
            self.fail(f"{process}: {function} raised {error!r}")
        finally:
            self._depth -= 1
            if before:
                self._return(*before)

    def _return(self, process, local, loop):
        """Go on with what other things happened in the middle of."""
        self.enter(process)
        self.local = local
        asyncio._set_running_loop(loop)
