/**
 * The modern client: a stream that goes on until it is closed, or the server ends it for good.
 *
 * What pages may rely on is in `types/eventstream.d.ts`.
 */

import { EventStreamParser } from "./parser.js";
import { StreamError, keepReading } from "./reading.js";

export { EventStreamParser, StreamError };

/** @typedef {import("./types/eventstream").EventStreamOptions} Options */
/** @typedef {import("./types/eventstream").StreamState} State */

const RESET = "stream-reset";

/** How much may wait in an iterator: so many events, or ten thousand times as many characters. */
const ROOM = 1000;

/**
 * What options must be, where `fetch` does not find out; all that begin with "on" are functions.
 *
 * @type {Record<string, string>}
 */
const TYPES = {
  getHeaders: "function",
  lastEventId: "string",
  maxRetryTime: "number",
  shareKey: "string",
  stallTimeout: "number",
};

/** Call a page's function; what it throws disturbs nobody. @param {any} callback @param {any[]} values */
function call(callback, ...values) {
  try {
    callback?.(...values);
  } catch (error) {
    reportError(error);
  }
}

class StreamEvent {
  /** @type {any} */
  #data;

  /** @param {string} type @param {string} text @param {string} lastEventId */
  constructor(type, text, lastEventId) {
    this.type = type;
    this.text = text;
    this.lastEventId = lastEventId;
  }

  get data() {
    return (this.#data ??= JSON.parse(this.text));
  }
}

export class EventStream {
  #url;
  /** @type {Options} */
  #options;
  /** @type {State} */
  #state = "connecting";
  /** @type {string} */
  #position;
  /** @type {StreamError | undefined} */
  #error;
  /** @type {Map<string, Set<Function>>} */
  #callbacks = new Map();
  /** Of iterators. @type {Set<ReadableStreamDefaultController<StreamEvent>>} */
  #queues = new Set();
  /** Why the stream is paused: each reason is something of its own. */
  #pauses = new Set();
  /** Of the connection, while the stream is not paused. @type {AbortController | undefined} */
  #session;
  #closing = new AbortController();

  /** @param {string | URL} url @param {Options} [options] */
  constructor(url, options = {}) {
    for (const [name, value] of Object.entries(options)) {
      const type = /^on/.test(name) ? "function" : TYPES[name];
      if (value != null && type && (typeof value !== type || value < 0 || value !== value)) {
        throw new TypeError(`Option ${name} of EventStream must be a ${type}, not "${value}"`);
      }
    }
    let parsed;
    try {
      parsed = new URL(new Request(url, options).url);
    } catch (error) {
      throw new TypeError(`EventStream needs what fetch takes: ${error}`);
    }
    if (!/^http/.test(parsed.protocol)) {
      throw new SyntaxError(`EventStream needs an http: or https: URL, not "${url}"`);
    }
    parsed.hash = "";
    const positions = parsed.searchParams.getAll("lastEventId");
    if (positions[0] !== undefined) {
      // Or pages that start at different positions could not share.
      parsed.searchParams.delete("lastEventId");
    }
    this.#url = parsed.href;
    this.#options = { ...options };
    this.#position = options.lastEventId || positions.filter(Boolean).pop() || "";

    const { signal } = options;
    signal?.addEventListener("abort", () => this.close(), { signal: this.#closing.signal });
    const page = globalThis.document;
    // A page in the back/forward cache, or frozen, must not hold what others wait for.
    this.#pauseAt(globalThis, "pagehide", () => true);
    this.#pauseAt(globalThis, "pageshow", () => false);
    this.#pauseAt(page, "freeze", () => true);
    this.#pauseAt(page, "resume", () => false);
    const isHidden = () => page?.hidden && options.pauseWhenHidden;
    this.#pauseAt(page, "visibilitychange", isHidden, isHidden);
    // Callbacks that are set right after this miss nothing.
    queueMicrotask(() => {
      if (signal?.aborted) {
        this.close();
      }
      this.#pause(isHidden, isHidden());
    });
  }

  get url() {
    return this.#url;
  }

  get state() {
    return this.#state;
  }

  get lastEventId() {
    return this.#position;
  }

  get error() {
    return this.#error;
  }

  /** @param {string} type @param {(event: StreamEvent) => void} callback */
  on(type, callback) {
    if (typeof callback !== "function") {
      throw new TypeError(`on("${type}", …) of EventStream needs a function`);
    }
    const callbacks = this.#callbacks.get(type) ?? new Set();
    this.#callbacks.set(type, callbacks);
    const own = (/** @type {StreamEvent} */ event) => callback(event); // may be given twice
    callbacks.add(own);
    return () => {
      callbacks.delete(own);
    };
  }

  close() {
    this.#end();
  }

  [Symbol.asyncIterator]() {
    /** @type {any} */
    let queue;
    const reader = new ReadableStream(
      {
        start: (controller) => {
          queue = controller;
        },
        pull: () => {
          if (queue.desiredSize > ROOM / 2) {
            this.#pause(queue, false);
          }
        },
      },
      { highWaterMark: ROOM, size: (/** @type {StreamEvent} */ { text }) => 1 + text.length / 10_000 },
    ).getReader();
    if (this.#state === "closed") {
      queue.close();
    } else {
      this.#queues.add(queue);
    }
    return {
      next: async () => {
        const result = await reader.read();
        if (result.done && this.#error) {
          throw this.#error;
        }
        return result;
      },
      return: async (/** @type {any} */ value) => {
        this.close();
        reader.cancel();
        return { done: true, value };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  /** @param {any} target @param {string} type @param {() => unknown} begins @param {any} [reason] */
  #pauseAt(target, type, begins, reason = target) {
    const listener = () => this.#pause(reason, begins());
    target?.addEventListener?.(type, listener, { signal: this.#closing.signal });
  }

  /** Begin or end a pause. @param {unknown} reason @param {unknown} begins */
  #pause(reason, begins) {
    this.#pauses[begins ? "add" : "delete"](reason);
    if (this.#state === "closed") {
      return;
    }
    if (this.#pauses.size) {
      this.#session?.abort();
      this.#session = undefined;
      this.#setState("paused");
    } else if (!this.#session) {
      this.#session = new AbortController();
      this.#start(this.#session.signal);
    }
  }

  /** @param {AbortSignal} signal */
  #start(signal) {
    const stream = this;
    keepReading(this.#url, this.#options, signal, {
      get position() {
        return stream.#position;
      },
      onblock: (block) => this.#deliver(block),
      onstate: (state, reason) => this.#setState(state, reason),
      onend: (error) => this.#end(error),
    });
  }

  /** @param {State} state @param {unknown} [reason] */
  #setState(state, reason) {
    if (state !== this.#state || reason) {
      this.#state = state;
      call(this.#options.onstatechange, state, reason);
    }
  }

  /** @param {StreamError} [error] */
  #end(error) {
    if (this.#state === "closed") {
      return;
    }
    this.#error = error;
    this.#closing.abort();
    this.#session?.abort();
    this.#setState("closed", error);
    for (const queue of this.#queues) {
      queue.close();
    }
    if (error) {
      call(this.#options.onerror, error);
    }
  }

  /** @param {import("./parser.js").Block} block */
  #deliver({ type, data, lastEventId }) {
    this.#position = lastEventId;
    if (data === undefined) {
      return;
    }
    const event = new StreamEvent(type, data, lastEventId);
    const { onevent, onreset } = this.#options;
    const callbacks = [...(this.#callbacks.get(type) ?? [])];
    if (!/^(keep-alive|stream-open)$/.test(type)) {
      callbacks.push(...(this.#callbacks.get("*") ?? []));
      callbacks.push(
        type === RESET ? () => onreset?.(event.data.channels, event) : () => onevent?.(event),
      );
      for (const queue of this.#queues) {
        queue.enqueue(event);
      }
    }
    for (const callback of callbacks) {
      if (this.#state === "closed") {
        return; // by one before
      }
      call(callback, event);
    }
    if (this.#isFull()) {
      return this.#relieve();
    }
  }

  #isFull() {
    return [...this.#queues].some((queue) => Number(queue.desiredSize) <= 0);
  }

  /** Pause until there is room, unless whoever iterates has only not had its turn yet. */
  async #relieve() {
    for (let turns = 10_000; turns && this.#isFull(); turns--) {
      await undefined;
    }
    for (const queue of this.#queues) {
      if (Number(queue.desiredSize) <= 0) {
        this.#pause(queue, true);
      }
    }
  }
}
