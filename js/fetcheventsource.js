/** An EventSource made of `fetch`: WHATWG HTML, section 9.2 "Server-sent events". */

import { ResponseError, connect, read } from "./connection.js";
import { CLOSED, CONNECTING, OPEN, begin, describe } from "./eventsourceinterface.js";
import { EventStreamParser } from "./parser.js";

const RECONNECTION_TIME = 3000; // "probably in the region of a few seconds"
const LONGEST_TIMER = 2 ** 31 - 1;

export class FetchEventSource extends EventTarget {
  #state;
  #lastEventId = "";
  #reconnectionTime = RECONNECTION_TIME;
  #timer = 0;
  #abort = new AbortController();

  static {
    describe(this, "EventSource", (object) => object.#state);
  }

  /** @param {string | URL} url @param {EventSourceInit} [init] */
  constructor(url, init = {}) {
    super();
    this.#state = begin(arguments);
    this.#connect();
  }

  close() {
    this.#state.readyState = CLOSED;
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  async #connect() {
    const state = this.#state;
    let futile = false;
    try {
      const response = await connect(state.url, {
        credentials: state.withCredentials ? "include" : "same-origin",
        headers: this.#lastEventId ? { "Last-Event-ID": bytes(this.#lastEventId) } : {},
        signal: this.#abort.signal,
      });
      this.#abort.signal.throwIfAborted(); // meanwhile
      state.readyState = OPEN;
      this.dispatchEvent(new Event("open"));
      const { origin } = new URL(response.url || state.url); // that of the last redirect
      const parser = new EventStreamParser(this.#lastEventId);
      for await (const blocks of read(response, parser)) {
        this.#reconnectionTime = parser.retry ?? this.#reconnectionTime;
        for (const { type, data, lastEventId } of blocks) {
          if (state.readyState === CLOSED) {
            return;
          }
          this.#lastEventId = lastEventId;
          if (data !== undefined) {
            this.dispatchEvent(new MessageEvent(type, { data, lastEventId, origin }));
          }
        }
      }
    } catch (error) {
      // What fetch cannot do will not get better.
      futile = error instanceof ResponseError || !/^https?:/.test(state.url);
    }
    if (state.readyState === CLOSED) {
      return;
    }
    state.readyState = futile ? CLOSED : CONNECTING;
    this.dispatchEvent(new Event("error"));
    if (state.readyState === CONNECTING) {
      const pause = Math.min(this.#reconnectionTime, LONGEST_TIMER);
      this.#timer = setTimeout(() => this.#connect(), pause);
    }
  }
}

/**
 * Return a header's value that is sent as the UTF-8 of a text.
 *
 * @param {string} text
 */
function bytes(text) {
  return Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
}
