/** What a stream said: an event of the service, or a `stream-reset`. */
export interface StreamEvent {
  /** The event's type, as given to `send_event`; "stream-reset" for a reset. */
  readonly type: string;
  /** The data, decoded from JSON when it is first read: throws SyntaxError if it is none. */
  readonly data: any;
  /** The data as it came, for events sent with `json_encode=False`. */
  readonly text: string;
  /** The position after this event, "" where no channel is reliable. */
  readonly lastEventId: string;
}

/** The server ended the stream for good (`stream-error`); nothing follows. */
export class StreamError extends Error {
  /** "bad-request", "forbidden" or "internal-error"; of an HTTP answer that says stop: "no-content". */
  readonly condition: string;
  /** All of the error's data: condition, text, and channels where the condition has them. */
  readonly data: any;
}

export type StreamState = "connecting" | "open" | "paused" | "closed";

export interface EventStreamOptions {
  /** Where to start: what `get_current_event_id` returned. Also taken from the URL's `lastEventId`. */
  lastEventId?: string;
  /** Request headers. */
  headers?: HeadersInit;
  /**
   * Called before each connection, and at once after an answer of 401; adds to `headers`. `reason`
   * is the error that ended the connection before: its `status` is 401 if a token was refused.
   */
  getHeaders?: (reason: any) => HeadersInit | Promise<HeadersInit>;
  /** As of `fetch`; "same-origin" by default. */
  credentials?: RequestCredentials;
  /** Ends the stream when aborted. */
  signal?: AbortSignal;
  /** Lets all tabs that give the same key, URL and credentials share one connection. */
  shareKey?: string;
  /** Hold no connection while the page is hidden, and resume when it is shown. */
  pauseWhenHidden?: boolean;
  /** Milliseconds of silence after which a connection is dead; by default 2.5 keep-alives, 0: never. */
  stallTimeout?: number;
  /** The longest pause between attempts in milliseconds, 30,000 by default. */
  maxRetryTime?: number;
  /** An event of the service. */
  onevent?: (event: StreamEvent) => void;
  /** Events are gone on these channels: load their state anew. */
  onreset?: (channels: string[], event: StreamEvent) => void;
  /** The stream has ended for good. */
  onerror?: (error: StreamError) => void;
  /** `reason` says why a stream is connecting again, where something failed. */
  onstatechange?: (state: StreamState, reason?: unknown) => void;
}

/** A stream that goes on until it is closed, or the server says that trying again is of no use. */
export class EventStream implements AsyncIterable<StreamEvent> {
  /** Connects after the current script. Throws TypeError or SyntaxError for what cannot be used. */
  constructor(url: string | URL, options?: EventStreamOptions);
  readonly url: string;
  readonly state: StreamState;
  /** The position after the event delivered last. */
  readonly lastEventId: string;
  /** The error that ended the stream. */
  readonly error: StreamError | undefined;
  /**
   * Call back for events of a type; returns a function that ends it. "*": for all events of the
   * service and all resets, but not for "stream-open" and "keep-alive".
   */
  on(type: string, callback: (event: StreamEvent) => void): () => void;
  close(): void;
  /**
   * The events from now on, resets included. Throws the StreamError that ends the stream, after what
   * came before it; ends quietly, and at once, when the stream is closed. Leaving the loop closes
   * the stream.
   */
  [Symbol.asyncIterator](): AsyncIterator<StreamEvent>;
}

/** One block of a stream: what stands between two blank lines. */
export interface Block {
  /** The event's type, "message" if the stream names none. */
  type: string;
  /** Undefined: no event, only the position moved. */
  data: string | undefined;
  /** The position after this block. */
  lastEventId: string;
}

/** A strict parser of `text/event-stream` (WHATWG HTML, section 9.2.5), without I/O. */
export class EventStreamParser {
  /** `lastEventId`: where the response resumes. */
  constructor(lastEventId?: string);
  readonly lastEventId: string;
  /** What the last `retry:` line said, in milliseconds. */
  readonly retry: number | undefined;
  /** Return the blocks that the next bytes of a response complete, in whatever pieces they come. */
  receive(bytes: Uint8Array): Block[];
}
