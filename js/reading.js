/** One stream, kept going over as many connections as it takes. */

import { Backoff } from "./backoff.js";
import { connect, read } from "./connection.js";
import { EventStreamParser } from "./parser.js";
import { Watchdog } from "./watchdog.js";

/** The server ended the stream for good; nothing follows. */
export class StreamError extends Error {
  /** @param {any} data  Of the `stream-error`. */
  constructor(data) {
    super(data.text);
    this.name = "StreamError";
    this.condition = data.condition;
    this.data = data;
  }
}

/**
 * Who reads.
 *
 * @typedef {object} Reader
 * @property {string} position  Where the next connection begins.
 * @property {(block: import("./parser.js").Block) => unknown} onblock  Awaited before the next one.
 * @property {(
 *   state: "connecting" | "open",
 *   reason?: unknown,
 *   first?: import("./parser.js").Block,
 * ) => void} onstate  Called before the first block of a connection is given to `onblock`.
 * @property {(error: StreamError) => void} onend
 */

/**
 * Read a stream until the signal aborts or the server ends it for good.
 *
 * @param {string} url
 * @param {import("./types/eventstream").EventStreamOptions} options
 * @param {AbortSignal} signal
 * @param {Reader} reader
 */
export async function keepReading(url, options, signal, reader) {
  const backoff = new Backoff(options.maxRetryTime ?? 30_000);
  let attempt = new AbortController();
  let wake = () => {};
  let atOnce = false;
  let refused = false; // for want of valid headers, since the last connection that stood
  const stop = (/** @type {string} */ why) => {
    attempt.abort(Error(why));
    wake();
  };
  const watchdog = new Watchdog(
    () => stop("nothing came for too long"),
    () => {
      atOnce = true;
      stop("the network is back");
    },
    options.stallTimeout,
  );
  signal.addEventListener("abort", () => {
    watchdog.stop();
    stop("closed");
  });

  /** @type {any} */
  let reason;
  reader.onstate("connecting");
  while (!signal.aborted) {
    attempt = new AbortController();
    atOnce = false;
    try {
      const headers = new Headers(options.headers);
      for (const [name, value] of new Headers(await options.getHeaders?.(reason))) {
        headers.set(name, value);
      }
      watchdog.connecting();
      const { position } = reader;
      const response = await connect(
        position
          ? `${url}${url.includes("?") ? "&" : "?"}lastEventId=${encodeURIComponent(position)}`
          : url,
        { headers, credentials: options.credentials, signal: attempt.signal },
      );
      watchdog.heard();
      let opened = false;
      const parser = new EventStreamParser(position);
      for await (const blocks of read(response, parser)) {
        watchdog.heard(blocks);
        backoff.retry = parser.retry ?? backoff.retry;
        for (const block of blocks) {
          if (signal.aborted) {
            return;
          }
          if (block.type === "stream-error") {
            reader.onend(new StreamError(Object(JSON.parse(block.data || "0"))));
            return;
          }
          if (!opened) {
            // Not the answer's head: what is sent before `stream-open` may be missed.
            opened = true;
            refused = false;
            backoff.reset();
            reader.onstate("open", undefined, block);
          }
          await reader.onblock(block);
        }
      }
      reason = Error("the server ended the response");
    } catch (error) {
      reason = error;
    }
    watchdog.rest();
    if (signal.aborted) {
      return;
    }
    if (reason?.status === 204) {
      reader.onend(new StreamError({ condition: "no-content", text: "The server has no more" }));
      return;
    }
    reader.onstate("connecting", reason);
    if (reason?.status === 401 && options.getHeaders && !refused) {
      refused = atOnce = true; // with new headers
    }
    if (!atOnce && !signal.aborted) {
      await new Promise((/** @type {(_?: unknown) => void} */ resolve) => {
        const timer = setTimeout(resolve, backoff.next());
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
