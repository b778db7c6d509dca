/**
 * The modern client: a stream that goes on until it is closed, or the server ends it for good.
 *
 * What pages may rely on is in `types/eventstream.d.ts`.
 */

import { ENOUGH, ROOM, TURNS } from "./limits.js";
import { EventStreamParser } from "./parser.js";
import { RESET } from "./position.js";
import { StreamError, keepReading } from "./reading.js";
import { share } from "./sharing.js";

export { EventStreamParser, StreamError };

/** @typedef {import("./types/eventstream").EventStreamOptions} Options */
/** @typedef {import("./types/eventstream").StreamState} State */
/** @typedef {import("./types/eventstream").StreamEvent} StreamEvent */

/** @param {unknown} condition @param {string} what */
function need(condition, what) {
  if (!condition) {
    throw new TypeError(`EventStream needs ${what}`);
  }
}

/** Call a page's function; what it throws disturbs nobody. @param {any} callback @param {any[]} values */
function call(callback, ...values) {
  try {
    callback?.(...values);
  } catch (error) {
    reportError(error);
  }
}

export class EventStream {
  // Plain properties, which pages only read.
  /** @type {State} */
  state = "connecting";
  /** @type {StreamError | undefined} */
  error;
  /** @type {Options & { group: string }} */
  #options;
  /** @type {Set<(event: StreamEvent) => void>} */
  #callbacks = new Set();
  /** Of iterators: their streams' controllers. @type {Set<any>} */
  #queues = new Set();
  /** Why the stream is paused: each reason is something of its own. */
  #pauses = new Set();
  /** Of the connection, while the stream is not paused. @type {AbortController | undefined} */
  #session;
  #closing = new AbortController();

  /** @param {string | URL} url @param {Options} [options] */
  constructor(url, options = {}) {
    for (const [name, value] of Object.entries(options)) {
      const type = /^(on|get)/.test(name) ? "function" : /Time/.test(name) ? "number" : typeof value;
      // NaN is no number to wait for.
      need(value == null || (typeof value === type && !(value < 0 || value !== value)), `a ${type} as ${name}`);
    }
    const request = new Request(url, options); // which checks what fetch takes
    need(/^http/.test(request.url), `an http: or https: URL, not ${url}`);
    const parsed = new URL(request.url);
    this.lastEventId =
      options.lastEventId || parsed.searchParams.getAll("lastEventId").filter(Boolean).pop() || "";
    parsed.searchParams.delete("lastEventId"); // or those who start at different ones could not share
    this.url = parsed.href;

    const { onevent, onreset, pauseWhenHidden, shareKey, signal } = options;
    // The number is that of the messages' form.
    const group =
      shareKey != null && globalThis.navigator?.locks
        ? `1 ${request.credentials} ${this.url} ${shareKey}`
        : "";
    this.#options = { ...options, group };
    this.on(RESET, (event) => onreset?.(event.data.channels, event));
    this.on("*", (event) => event.type === RESET || onevent?.(event));
    const listening = { capture: true, signal: this.#closing.signal };
    const look = (/** @type {{ type?: string }} */ { type = "" }) => {
      // A page that is frozen, or kept for the way back, must not hold what others wait for. On its
      // way there it becomes hidden, after "pagehide".
      if (!/vis/.test(type)) {
        this.#pause(listening, /ze|hide/.test(type));
      }
      this.#pause(look, pauseWhenHidden && globalThis.document?.hidden);
    };
    for (const type of ["visibilitychange", "freeze", "resume", "pagehide", "pageshow"]) {
      globalThis.addEventListener?.(type, look, listening);
    }
    signal?.addEventListener("abort", () => this.close(), listening);
    // Callbacks that are set right after this miss nothing.
    queueMicrotask(() => {
      if (signal?.aborted) {
        this.close();
      }
      look({});
    });
  }

  /** @param {string} type @param {(event: StreamEvent) => void} callback */
  on(type, callback) {
    const hear = (/** @type {StreamEvent} */ event) => {
      // One before may have ended this, or the stream.
      if (
        this.#callbacks.has(hear) &&
        (type === event.type || (type === "*" && !["keep-alive", "stream-open"].includes(event.type)))
      ) {
        call(callback, event);
      }
    };
    this.#callbacks.add(hear);
    return () => this.#callbacks.delete(hear);
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
          if (queue.desiredSize > ENOUGH) {
            this.#pause(queue);
          }
        },
      },
      { highWaterMark: ROOM, size: ({ text }) => 1 + text.length / 10_000 },
    ).getReader();
    this.#queues.add(queue);
    this.on("*", (event) => queue.enqueue(event));
    if (this.state === "closed") {
      queue.close();
    }
    return {
      next: async () => {
        const result = await reader.read().catch(() => /** @type {any} */ ({ done: true }));
        if (result.done && this.error) {
          throw this.error;
        }
        return result;
      },
      return: async () => {
        this.close();
        return /** @type {any} */ ({ done: true });
      },
    };
  }

  /** End or begin a pause. @param {unknown} reason @param {unknown} [begins] */
  #pause(reason, begins) {
    this.#pauses[begins ? "add" : "delete"](reason);
    if (this.state === "closed") {
      return;
    }
    if (this.#pauses.size) {
      this.#session?.abort();
      this.#session = undefined;
      this.#setState("paused");
    } else if (!this.#session) {
      this.#session = new AbortController();
      (this.#options.group ? share : keepReading)(
        this,
        this.#options,
        this.#session.signal,
        (block) => this.#deliver(block),
        (state, reason) => this.#setState(state, reason),
        (error) => this.#end(error),
      );
      this.#setState("connecting"); // now that a callback may end it
    }
  }

  /** @param {State} state @param {unknown} [reason] */
  #setState(state, reason) {
    if (state !== this.state || reason) {
      this.state = state;
      call(this.#options.onstatechange, state, reason);
    }
  }

  /** @param {StreamError} [error] */
  #end(error) {
    if (this.state === "closed") {
      return;
    }
    this.error = error;
    this.#callbacks.clear();
    this.#closing.abort();
    this.#session?.abort();
    this.#setState("closed", error);
    for (const queue of this.#queues) {
      // Before an error comes what still waits; a page that closes the stream wants no more.
      queue[error ? "close" : "error"]();
    }
    call(error && this.#options.onerror, error);
  }

  /** @param {import("./parser.js").Block} block */
  async #deliver({ type, data: text, lastEventId }) {
    this.lastEventId = lastEventId;
    if (text === undefined) {
      return;
    }
    /** @type {any} */
    let value;
    const event = {
      type,
      text,
      lastEventId,
      get data() {
        return (value ??= JSON.parse(text));
      },
    };
    // Those that they set meanwhile begin with the next event.
    for (const hear of [...this.#callbacks]) {
      hear(event);
    }
    // Pause until there is room, unless whoever iterates has only not had its turn yet.
    const full = () => [...this.#queues].filter((queue) => queue.desiredSize <= 0);
    for (let turn = 0; turn < TURNS && full()[0]; turn++) {
      await undefined;
    }
    for (const queue of full()) {
      this.#pause(queue, true);
    }
  }
}
