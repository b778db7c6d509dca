/** One response of a stream, read with `fetch`. */

/** Whether this environment has what the functions here need. */
export function canStream() {
  return [globalThis.fetch, globalThis.TextDecoder].every(Boolean) && "body" in Response.prototype;
}

/** The answer is no stream. */
export class ResponseError extends Error {
  /** @param {Response} response */
  constructor(response) {
    super(
      response.status === 200
        ? `not an event stream but "${response.headers.get("Content-Type")}"`
        : `HTTP status ${response.status}`,
    );
    this.status = response.status;
  }
}

/**
 * Request a stream and return its response.
 *
 * @param {string} url
 * @param {RequestInit & { headers?: Record<string, string> }} options  Of `fetch`: headers, their
 *   names in lower case; credentials, signal.
 * @throws {ResponseError} when what answers is no stream (section 9.2.3 "Processing model")
 * @throws {TypeError} when the network fails, or the other origin does not allow it
 */
export async function connect(url, options) {
  const headers = { ...options.headers, accept: "text/event-stream" };
  const response = await fetch(url, { ...options, headers, cache: "no-store" });
  const type = response.headers.get("Content-Type") || "";
  if (response.status !== 200 || !/^text\/event-stream\s*(;|$)/i.test(type)) {
    response.body?.cancel().catch(() => {}); // or it holds one of the browser's connections
    throw new ResponseError(response);
  }
  return response;
}

/**
 * Read a response to its end, one list of blocks for each piece that comes.
 *
 * @param {Response} response
 * @param {import("./parser.js").EventStreamParser} parser
 */
export async function* read(response, parser) {
  const reader = response.body?.getReader();
  if (!reader) {
    return; // an empty answer
  }
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      yield parser.receive(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
