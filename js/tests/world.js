/**
 * A browser's tabs, and the service that they read from, in one process, without time: for tests of
 * what tabs that share a stream do to each other.
 *
 * The scripts are the real ones. What they stand on is not: locks, channels between tabs, `fetch`,
 * timers and the clock. Everything that happens is a task, and a seed draws which comes next, so
 * that a failure can be had again.
 */

export const CHANNELS = ["a", "b%20c"];
const UNRELIABLE = "u";
const KEEP_ALIVE = 20_000;
const LOSSES = 3;
const real = { setImmediate, setTimeout };

/** @param {number} seed  Returns numbers from 0 to 1 (mulberry32). */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export class World {
  now = 1_000_000;
  /** What is to happen: `order` keeps tasks of one queue in their order. */
  tasks = [];
  tabs = [];
  /** Whose code runs. */
  current;
  locks = new Map();
  channels = new Set();
  trace = [];
  errors = [];
  isUnruly = false;
  #count = 0;
  #queues = new Map();

  constructor(seed) {
    this.random = random(seed);
    this.service = new Service(this);
  }

  log(text) {
    this.trace.push(`${(this.now / 1000).toFixed(3)} ${text}`);
  }

  /** Between two numbers. */
  between(low, high) {
    return low + Math.floor(this.random() * (high - low + 1));
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  /** Have something happen; what has the same queue happens in order. */
  later(tab, run, delay = this.between(0, 20), queue = undefined) {
    let time = this.now + Math.max(0, delay);
    if (queue !== undefined) {
      time = Math.max(time, this.#queues.get(queue) ?? 0);
      this.#queues.set(queue, time);
    }
    const task = { tab, run, time, number: this.#count++, queue };
    this.tasks.push(task);
    return task;
  }

  /** Do what comes next; return false if there is nothing before a time. */
  async step(until = Infinity) {
    let next;
    for (const task of this.tasks) {
      if (
        !(task.tab && task.tab.frozen) &&
        (!next || task.time < next.time || (task.time === next.time && task.number < next.number))
      ) {
        next = task;
      }
    }
    if (!next || next.time > until) {
      this.now = Math.max(this.now, until);
      return false;
    }
    this.tasks.splice(this.tasks.indexOf(next), 1);
    this.now = Math.max(this.now, next.time);
    if (!(next.tab && next.tab.dead)) {
      await this.as(next.tab, next.run);
    }
    return true;
  }

  /** Run code of a tab, and what it leaves to microtasks. */
  async as(tab, run) {
    this.current = tab;
    let result;
    try {
      result = run();
    } catch (error) {
      this.errors.push(error);
    }
    await new Promise((resolve) => real.setImmediate(resolve));
    this.current = undefined;
    return result;
  }

  async run(milliseconds) {
    const until = this.now + milliseconds;
    while (await this.step(until));
  }

  open(makeStream) {
    const tab = new Tab(this, `tab-${this.tabs.length}`);
    this.tabs.push(tab);
    return this.as(tab, () => makeStream(tab)).then(() => tab);
  }

  /** A tab goes on that stood still: what waited for it comes, if unruly, each queue by itself. */
  thaw(tab) {
    tab.frozen = false;
    if (!this.isUnruly) return;
    const starts = new Map();
    for (const task of this.tasks) {
      if (task.tab !== tab) continue;
      if (!starts.has(task.queue)) starts.set(task.queue, this.now + this.between(0, 20));
      task.time = Math.max(task.time, starts.get(task.queue));
      if (task.queue !== undefined) {
        this.#queues.set(task.queue, Math.max(task.time, this.#queues.get(task.queue)));
      }
    }
  }

  /** The tab is gone, without a word. */
  crash(tab) {
    tab.dead = true;
    for (const channel of [...this.channels]) {
      if (channel.tab === tab) this.channels.delete(channel);
    }
    for (const lock of this.locks.values()) lock.leave(tab);
    for (const stream of this.service.streams) {
      if (stream.tab === tab) stream.drop();
    }
  }

  /** Put this world in the place of the real one; returns what undoes it. */
  install() {
    const world = this;
    const replaced = {};
    const put = (name, descriptor) => {
      replaced[name] = Object.getOwnPropertyDescriptor(globalThis, name);
      Object.defineProperty(globalThis, name, { configurable: true, ...descriptor });
    };
    put("document", { get: () => world.current?.document });
    put("addEventListener", {
      get: () => world.current && world.current.window.addEventListener.bind(world.current.window),
    });
    put("navigator", { value: { locks: new Locks(world) } });
    put("BroadcastChannel", {
      value: class {
        constructor(name) {
          this.name = name;
          this.tab = world.current;
          this.id = `bus-${world.#count++}`;
          world.channels.add(this);
        }
        postMessage(message) {
          if (!world.channels.has(this)) throw new Error("InvalidStateError: the channel is closed");
          for (const other of world.channels) {
            if (other === this || other.name !== this.name) continue;
            const data = structuredClone(message);
            const take = () => world.channels.has(other) && other.onmessage?.({ data });
            world.later(other.tab, take, world.between(0, 8), this.id + other.id);
          }
        }
        close() {
          world.channels.delete(this);
        }
      },
    });
    put("fetch", { value: (url, options) => world.service.fetch(url, options) });
    put("setTimeout", { value: (run, delay = 0) => world.later(world.current, run, delay) });
    put("clearTimeout", {
      value: (task) => task && world.tasks.includes(task) && world.tasks.splice(world.tasks.indexOf(task), 1),
    });
    put("setInterval", {
      value: (run, delay) => {
        const tab = world.current;
        const handle = { stopped: false };
        const again = () => world.later(tab, () => handle.stopped || (run(), again()), delay);
        again();
        return handle;
      },
    });
    put("clearInterval", { value: (handle) => handle && (handle.stopped = true) });
    put("reportError", { value: (error) => world.errors.push(error) });
    const { now } = Date;
    const { random: chance } = Math;
    Date.now = () => world.now;
    Math.random = () => world.random();
    return () => {
      Date.now = now;
      Math.random = chance;
      for (const [name, descriptor] of Object.entries(replaced)) {
        if (descriptor) Object.defineProperty(globalThis, name, descriptor);
        else delete globalThis[name];
      }
    };
  }
}

class Tab {
  dead = false;
  frozen = false;
  window = new EventTarget();
  document = Object.assign(new EventTarget(), { hidden: false });
  /** The number of the event that it must get next, for each channel. */
  expected = new Map();
  resets = 0;
  moments = new Set();

  constructor(world, name) {
    this.world = world;
    this.name = name;
  }
}

class Locks {
  constructor(world) {
    this.world = world;
  }

  request(name, options, callback) {
    const { world } = this;
    const tab = world.current;
    if (!world.locks.has(name)) world.locks.set(name, new Lock(world));
    const lock = world.locks.get(name);
    return new Promise((resolve, reject) => {
      const request = { tab, callback, resolve, reject };
      const aborted = () => Object.assign(new Error("aborted"), { name: "AbortError" });
      request.stolen = () => reject(aborted());
      if (options.steal) {
        lock.steal(request);
        return;
      }
      if (options.signal?.aborted) {
        reject(aborted());
        return;
      }
      options.signal?.addEventListener("abort", () => {
        if (lock.waiting.includes(request)) {
          lock.waiting.splice(lock.waiting.indexOf(request), 1);
          reject(aborted());
        }
      });
      lock.waiting.push(request);
      lock.grant();
    });
  }
}

class Lock {
  waiting = [];
  holder;

  constructor(world) {
    this.world = world;
  }

  grant() {
    if (this.holder || !this.waiting.length) return;
    const request = (this.holder = this.waiting.shift());
    this.world.later(request.tab, () => this.#call(request), this.world.between(0, 5));
  }

  steal(request) {
    const before = this.holder;
    this.holder = request;
    if (before) this.world.later(before.tab, () => before.stolen(), this.world.between(0, 5));
    this.world.later(request.tab, () => this.#call(request), this.world.between(0, 5));
  }

  #call(request) {
    if (this.holder !== request) return; // stolen before it was told
    Promise.resolve(request.callback()).then((value) => {
      if (this.holder === request) {
        this.holder = undefined;
        request.resolve(value);
        this.grant();
      }
    });
  }

  leave(tab) {
    this.waiting = this.waiting.filter((request) => request.tab !== tab);
    if (this.holder?.tab === tab) {
      this.holder = undefined;
      this.grant();
    }
  }
}

const encoder = new TextEncoder();

/** Numbers events, keeps a log, and sends as docs/protocol.md says. */
class Service {
  refuses = false;
  streams = new Set();
  requests = 0;
  mostOpen = 0;
  epoch = 0;
  unreliable = 0;

  constructor(world) {
    this.world = world;
    this.logs = new Map(CHANNELS.map((channel) => [channel, []]));
    // So that numbers given out again are not taken for those before, which nobody could tell.
    this.counters = new Map(CHANNELS.map((channel) => [channel, LOSSES * 1000]));
    this.kept = new Map(CHANNELS.map((channel) => [channel, 1]));
    /** All that was ever sent. */
    this.history = [];
  }

  get position() {
    return [...this.counters].map(([name, number]) => `${name}:${number}`).join();
  }

  /** Send an event; `skipped`: not for these users. */
  send(channel, skipped = false) {
    const number = this.counters.get(channel) + 1;
    this.counters.set(channel, number);
    const event = { channel, number, skipped, epoch: this.epoch };
    this.logs.get(channel).push(event);
    this.history.push(event);
    for (const stream of this.streams) stream.wake();
  }

  sendUnreliable() {
    this.unreliable++;
    const text = `data: ${JSON.stringify({ moment: this.unreliable })}\n\n`;
    for (const stream of this.streams) stream.write(text);
  }

  /** Whether an event is not for these users. */
  skips(channel, number) {
    return this.history.some(
      (event) =>
        event.skipped &&
        event.channel === channel &&
        event.number === number &&
        event.epoch === this.epoch,
    );
  }

  trim() {
    for (const [channel, log] of this.logs) {
      const first = this.counters.get(channel) + 1;
      this.logs.set(channel, log.filter(({ number }) => number >= first));
      this.kept.set(channel, first);
    }
  }

  /** As when a Redis is flushed. */
  loseCounters() {
    if (this.epoch === LOSSES) return;
    this.epoch++;
    for (const stream of [...this.streams]) stream.cut();
    for (const channel of this.counters.keys()) {
      this.counters.set(channel, (LOSSES - this.epoch) * 1000);
      this.logs.set(channel, []);
      this.kept.set(channel, 1);
    }
  }

  cutAll() {
    for (const stream of [...this.streams]) stream.cut();
  }

  fetch(url, { signal }) {
    const { world } = this;
    const tab = world.current;
    this.requests++;
    return new Promise((resolve, reject) => {
      let done = false;
      signal.addEventListener("abort", () => {
        done = true;
        reject(signal.reason);
      });
      world.later(tab, () => {
        if (done) return;
        if (this.refuses) {
          reject(new TypeError("refused"));
          return;
        }
        const stream = new Stream(this, tab, new URL(url).searchParams.get("lastEventId") ?? "");
        signal.addEventListener("abort", () => stream.drop(signal.reason));
        resolve(stream.response);
      });
    });
  }
}

class Stream {
  constructor(service, tab, text) {
    this.service = service;
    this.world = service.world;
    this.tab = tab;
    this.id = `stream-${service.requests}`;
    this.waking = false;
    const given = new Map(text ? text.split(",").map((pair) => pair.split(":")) : []);
    this.position = new Map();
    const resets = [];
    for (const [channel, current] of service.counters) {
      const number = given.has(channel) ? Number(given.get(channel)) : current;
      this.position.set(channel, number);
      if (number > current) resets.push(channel);
    }
    this.response = new Response(
      new ReadableStream({ start: (controller) => void (this.controller = controller) }),
      { headers: { "Content-Type": "text/event-stream" } },
    );
    service.streams.add(this);
    service.mostOpen = Math.max(service.mostOpen, service.streams.size);
    this.write(`event: stream-open\nid: ${this.text}\ndata:\n\n`);
    this.reset(resets);
    this.wake();
  }

  get text() {
    return [...this.position].map(([name, number]) => `${name}:${number}`).join();
  }

  reset(channels) {
    if (!channels.length) return;
    for (const channel of channels) {
      this.position.set(channel, this.service.counters.get(channel));
    }
    const names = JSON.stringify({ channels: channels.map(decodeURIComponent) });
    this.write(`event: stream-reset\nid: ${this.text}\ndata: ${names}\n\n`);
  }

  write(text) {
    if (!this.service.streams.has(this)) return;
    const written = (this.written = {});
    const keepAlive = () => this.written === written && this.write("event: keep-alive\ndata:\n\n");
    this.world.later(undefined, keepAlive, KEEP_ALIVE);
    const send = () => {
      if (this.service.streams.has(this)) this.controller.enqueue(encoder.encode(text));
    };
    this.world.later(this.tab, send, this.world.between(0, 15), this.id);
  }

  wake() {
    if (this.waking) return;
    this.waking = true;
    this.world.later(undefined, () => this.follow(), this.world.between(0, 10));
  }

  /** Write what the log holds behind the position. */
  follow() {
    this.waking = false;
    if (!this.service.streams.has(this)) return;
    const { counters, logs, kept } = this.service;
    let unsaid = false;
    for (;;) {
      const behind = CHANNELS.filter((name) => this.position.get(name) < counters.get(name));
      if (!behind.length) break;
      const channel = this.world.pick(behind);
      const next = this.position.get(channel) + 1;
      if (next < kept.get(channel)) {
        this.reset([channel]);
        unsaid = false;
        continue;
      }
      const event = logs.get(channel).find(({ number }) => number === next);
      this.position.set(channel, next);
      unsaid = event.skipped;
      if (!event.skipped) {
        const data = JSON.stringify({ channel, number: next, epoch: event.epoch });
        this.write(`id: ${this.text}\ndata: ${data}\n\n`);
      }
      if (this.world.random() < 0.3) break;
    }
    if (unsaid) this.write(`id: ${this.text}\n\n`);
    if (CHANNELS.some((name) => this.position.get(name) < counters.get(name))) this.wake();
  }

  /** The client has left. */
  drop(reason) {
    if (this.service.streams.delete(this) && !this.tab?.dead) {
      this.controller.error(reason ?? new TypeError("dropped"));
    }
  }

  /** The connection breaks. */
  cut() {
    if (this.service.streams.delete(this)) {
      const { controller } = this;
      this.world.later(this.tab, () => controller.error(new TypeError("cut")), 5, this.id);
    }
  }
}

export { UNRELIABLE };
