/**
 * ReconnectingEventSource(url, options): an EventSource that does not give up.
 *
 * The browser's own ends for good when a server or proxy answers with an HTTP error, does not notice
 * connections that died, and forgets its position with the object. This one ends only with `close()`
 * or when the server says that trying again is of no use: by a `stream-error`, or by 204.
 *
 * It reads streams itself, which lets it see `retry:`, HTTP statuses, and the position and keep-alive
 * of all events. Given `eventSourceClass`, or where `fetch` cannot stream, it makes do with what an
 * EventSource shows.
 */

import { Backoff } from "./backoff.js";
import { ResponseError, canStream, connect, read } from "./connection.js";
import { CLOSED, CONNECTING, OPEN, begin, describe, expose } from "./eventsourceinterface.js";
import { EventStreamParser } from "./parser.js";
import { Watchdog } from "./watchdog.js";

const MAX_RETRY_TIME = 3000;
const PARAMETER = "lastEventId";

class EventSourceNotAvailableError extends Error {
  constructor() {
    super("neither fetch nor EventSource can stream here: give eventSourceClass");
    this.name = "EventSourceNotAvailableError";
  }
}

class ReconnectingEventSource extends EventTarget {
  #state;
  #lastEventId;
  #backoff;
  #watchdog;
  /** The options that are not ours, for the class. */
  #others;
  #timer = 0;
  /** Ends the connection that there is, if any, so that nothing of it is heard any more. */
  #disconnect = () => {};
  /** The object that does the work, if it is not we. @type {EventSourceLike | undefined} */
  #source;
  // What to listen for there. The stream's own tell the position when the page hears no others.
  #types = new Set(["message", "stream-open", "stream-reset", "stream-error", "keep-alive"]);

  static {
    describe(this, "ReconnectingEventSource", (object) => object.#state);
  }

  /** @param {string | URL} url @param {ReconnectingEventSourceInit} [options] */
  constructor(url, options = {}) {
    super();
    this.#state = begin(arguments);
    const { lastEventId, max_retry_time, eventSourceClass, ...others } = options ?? {};
    this.#others = others;
    this.#lastEventId = String(lastEventId || positionOf(this.#state.url));
    this.max_retry_time = Number(max_retry_time) > 0 ? max_retry_time : MAX_RETRY_TIME;
    this.eventSourceClass = eventSourceClass || (canStream() ? null : globalThis.EventSource);
    if (this.eventSourceClass !== null && typeof this.eventSourceClass !== "function") {
      throw new EventSourceNotAvailableError();
    }
    this.#backoff = new Backoff(Number(this.max_retry_time));
    this.#watchdog = new Watchdog(
      () => this.#fail(),
      () => this.#return(),
    );
    try {
      this.#connect();
    } catch (error) {
      this.close(); // or its clock would go on
      throw error;
    }
  }

  /** @param {Parameters<EventTarget["addEventListener"]>} given */
  addEventListener(...given) {
    super.addEventListener(...given);
    const type = String(given[0]);
    // The source's open and error are for us.
    if (type !== "open" && type !== "error" && !this.#types.has(type)) {
      this.#types.add(type);
      this.#source?.addEventListener(type, this.#relay);
    }
  }

  close() {
    this.#state.readyState = CLOSED;
    this.#disconnect();
    clearTimeout(this.#timer);
    this.#watchdog.stop();
  }

  #connect() {
    const url = resumed(this.#state.url, this.#lastEventId);
    if (this.eventSourceClass) {
      this.#listen(new this.eventSourceClass(url, this.#others));
    } else {
      this.#read(url);
    }
  }

  /** The network is back. What seems to be open is dead. */
  #return() {
    clearTimeout(this.#timer);
    this.#disconnect();
    if (this.#state.readyState === OPEN) {
      this.#lose();
    }
    if (this.#state.readyState === CONNECTING) {
      this.#connect();
    }
  }

  /** The connection failed. @param {unknown} [error] */
  #fail(error) {
    this.#disconnect();
    this.#watchdog.rest();
    if (error instanceof ResponseError && error.status === 204) {
      // By which a client "can be told to stop reconnecting".
      this.#end("no-content", error.message);
      return;
    }
    this.#timer = setTimeout(() => this.#connect(), this.#backoff.next());
    this.#lose();
  }

  #lose() {
    this.#state.readyState = CONNECTING;
    this.dispatchEvent(new Event("error"));
  }

  #open() {
    this.#state.readyState = OPEN;
    this.dispatchEvent(new Event("open"));
  }

  /** End for good. @param {unknown} condition @param {unknown} text */
  #end(condition, text) {
    this.close();
    this.dispatchEvent(Object.assign(new Event("error"), { condition, text }));
  }

  /**
   * @param {string} type
   * @param {{ data: any, lastEventId: string, origin: string }} init  Data undefined: no event.
   */
  #receive(type, init) {
    if (type === "stream-error") {
      this.close();
    } else {
      this.#lastEventId = init.lastEventId;
    }
    if (init.data !== undefined) {
      this.dispatchEvent(new MessageEvent(type, init));
    }
    if (type === "stream-error") {
      let { condition, text } = /** @type {any} */ ({});
      try {
        ({ condition, text } = JSON.parse(init.data));
      } catch {} // of another server, perhaps
      this.#end(condition, text);
    }
  }

  // With fetch

  /** @param {string} url */
  async #read(url) {
    const abort = new AbortController();
    const { signal } = abort;
    this.#disconnect = () => abort.abort();
    this.#watchdog.connecting();
    /** @type {unknown} */
    let failure;
    try {
      const response = await connect(url, {
        credentials: this.#state.withCredentials ? "include" : "same-origin",
        signal,
      });
      signal.throwIfAborted(); // meanwhile
      this.#watchdog.heard();
      this.#open();
      const { origin } = new URL(response.url || url);
      const parser = new EventStreamParser(this.#lastEventId);
      for await (const blocks of read(response, parser)) {
        signal.throwIfAborted();
        this.#watchdog.heard(blocks);
        this.#backoff.retry = parser.retry ?? this.#backoff.retry;
        for (const { type, data, lastEventId } of blocks) {
          this.#backoff.reset();
          this.#receive(type, { data, lastEventId, origin });
          signal.throwIfAborted(); // by the page
        }
      }
    } catch (error) {
      failure = error;
    }
    if (!signal.aborted) {
      this.#fail(failure);
    }
  }

  // With an EventSource

  /** @param {Event} event */
  #relay = (event) => {
    const { type, data, lastEventId, origin } = /** @type {MessageEvent} */ (event);
    // A new object knows no id before the first event that has one.
    this.#receive(type, { data, lastEventId: lastEventId || this.#lastEventId, origin });
  };

  /** @param {EventSourceLike} source */
  #listen(source) {
    this.#source = source;
    this.#disconnect = () => {
      this.#disconnect = () => {};
      this.#source = undefined;
      for (const type of this.#types) {
        source.removeEventListener(type, this.#relay);
      }
      source.onopen = source.onerror = null;
      source.close();
    };
    for (const type of this.#types) {
      source.addEventListener(type, this.#relay);
    }
    // A server may name its events "open" and "error": those have data.
    source.onopen = (event) => {
      if (event?.data !== undefined) {
        this.#relay(event);
      } else {
        this.#backoff.reset();
        this.#open();
      }
    };
    source.onerror = (event) => {
      if (event?.data !== undefined) {
        this.#relay(event);
      } else if (source.readyState === CLOSED) {
        this.#fail();
      } else {
        this.#lose(); // it goes on by itself
      }
    };
  }
}

/**
 * The position in a URL: the last one that is not empty, as the server has it.
 *
 * @param {string} url
 */
function positionOf(url) {
  return new URL(url).searchParams.getAll(PARAMETER).filter(Boolean).at(-1) ?? "";
}

/**
 * The URL with this position and no other. The rest of the query stays as it is spelled: it may
 * be signed.
 *
 * @param {string} url @param {string} lastEventId
 */
function resumed(url, lastEventId) {
  const result = new URL(url);
  const parts = result.search.slice(1).split("&");
  const others = parts.filter((part) => part && part.split("=")[0] !== PARAMETER);
  if (lastEventId) {
    others.push(`${PARAMETER}=${encodeURIComponent(lastEventId)}`);
  }
  result.search = others.join("&");
  return result.href;
}

expose(EventSourceNotAvailableError, "EventSourceNotAvailableError");
expose(ReconnectingEventSource, "ReconnectingEventSource");
