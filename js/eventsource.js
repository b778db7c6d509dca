/** Gives an `EventSource` to environments that have none, but can stream with `fetch`. */

import { canStream } from "./connection.js";
import { expose } from "./eventsourceinterface.js";
import { FetchEventSource } from "./fetcheventsource.js";

if (!globalThis.EventSource && canStream()) {
  expose(FetchEventSource, "EventSource");
}
