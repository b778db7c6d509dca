/** One stream, kept going over as many connections as it takes. */

import { Backoff } from "./backoff.js";
import { connect, read } from "./connection.js";
import { LONGEST_PAUSE } from "./limits.js";
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
 * What is called: with each block, which is awaited before the next one; with the state of the
 * connection, "open" before its first block; and at the end.
 *
 * @typedef {[
 *   onblock: (block: import("./parser.js").Block) => unknown,
 *   onstate: (state: "connecting" | "open", reason?: unknown) => void,
 *   onend: (error: StreamError) => void,
 * ]} On
 */

/**
 * Read a stream until the signal aborts or the server ends it for good.
 *
 * @param {{ readonly url: string, lastEventId: string }} stream  Where each connection begins.
 * @param {import("./types/eventstream").EventStreamOptions} options
 * @param {AbortSignal} signal
 * @param {On} on
 */
export async function keepReading(stream, options, signal, ...[onblock, onstate, onend]) {
  const backoff = new Backoff(options.maxRetryTime ?? LONGEST_PAUSE);
  let attempt = new AbortController();
  /** @type {undefined | (() => void)} */
  let wake;
  /** @type {boolean | undefined} */
  let atOnce;
  /** For want of valid headers, since the last connection that stood. @type {boolean | undefined} */
  let refused;
  const again = () => {
    atOnce = true;
    attempt.abort(Error("lost"));
    wake?.();
  };
  const watchdog = new Watchdog(again, again, options.stallTimeout);
  signal.addEventListener("abort", () => {
    watchdog.stop();
    again(); // and so the end
  });

  /** @type {any} */
  let reason;
  onstate("connecting");
  while (!signal.aborted) {
    attempt = new AbortController();
    atOnce = false;
    try {
      const headers = Object.fromEntries([
        ...new Headers(options.headers),
        ...new Headers(await options.getHeaders?.(reason)),
      ]);
      watchdog.connecting();
      const url = new URL(stream.url);
      const { lastEventId } = stream;
      if (lastEventId) {
        url.searchParams.set("lastEventId", lastEventId);
      }
      const response = await connect(url.href, { ...options, headers, signal: attempt.signal });
      watchdog.heard();
      /** @type {boolean | undefined} */
      let opened;
      const parser = new EventStreamParser(lastEventId);
      for await (const blocks of read(response, parser)) {
        watchdog.heard(blocks);
        backoff.retry = parser.retry ?? backoff.retry;
        for (const block of blocks) {
          if (signal.aborted) {
            return;
          }
          if (block.type === "stream-error") {
            onend(new StreamError(JSON.parse(/** @type {string} */ (block.data))));
            return;
          }
          if (!opened) {
            // Not the answer's head: what is sent before `stream-open` may be missed.
            opened = true;
            refused = false;
            backoff.reset();
            onstate("open");
          }
          await onblock(block);
        }
      }
      reason = Error("ended");
    } catch (error) {
      reason = error;
    }
    watchdog.rest();
    if (signal.aborted) {
      return;
    }
    if (reason?.status === 204) {
      onend(new StreamError({ condition: "no-content", text: reason.message }));
      return;
    }
    onstate("connecting", reason);
    if (reason?.status === 401 && options.getHeaders && !refused) {
      refused = atOnce = true; // with new headers
    }
    if (!atOnce) {
      await new Promise((/** @type {(_: void) => void} */ resolve) => {
        wake = resolve;
        setTimeout(wake, backoff.next());
      });
    }
  }
}
