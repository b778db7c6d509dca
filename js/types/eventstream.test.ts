// What TypeScript must accept and refuse of the module; never run.

import * as source from "../eventstream.js";
import * as declared from "./eventstream";

// The declarations are of what the source has.
const EventStream: typeof declared.EventStream = source.EventStream;
const EventStreamParser: typeof declared.EventStreamParser = source.EventStreamParser;
const StreamError: new (...values: any[]) => declared.StreamError = source.StreamError;

const stream = new EventStream(new URL("https://example.com/events/"), {
  lastEventId: "room:1",
  headers: { "X-Tab": "1" },
  getHeaders: async (reason) => (reason?.status === 401 ? [["Authorization", "Bearer 2"]] : {}),
  credentials: "include",
  signal: AbortSignal.timeout(1000),
  shareKey: "",
  pauseWhenHidden: true,
  stallTimeout: 0,
  maxRetryTime: 5000,
  onevent: ({ type, data, text, lastEventId }) => console.log(type, data.text, text, lastEventId),
  onreset: (channels, event) => console.log(channels.join(), event.type === "stream-reset"),
  onerror: ({ condition, message, data }) => console.log(condition, message, data.channels),
  onstatechange: (state, reason) => console.log(state === "paused", reason),
});

const stop: () => void = stream.on("message", (event) => console.log(event.data));
stop();

async function follow() {
  for await (const { data } of stream) {
    console.log(data, stream.state, stream.url, stream.lastEventId, stream.error?.condition);
  }
}

// @ts-expect-error: pages only read it
stream.state = "closed";
// @ts-expect-error: not a function
new EventStream("/events/", { onevent: "alert" });

const blocks: declared.Block[] = new EventStreamParser().receive(new Uint8Array());

export { StreamError, blocks, follow };
