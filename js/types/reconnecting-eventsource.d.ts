/** What a class must have to stand in for EventSource. */
interface EventSourceLike extends EventTarget {
  readonly readyState: number;
  onopen: ((event: any) => any) | null;
  onerror: ((event: any) => any) | null;
  close(): void;
}

interface ReconnectingEventSourceInit extends EventSourceInit {
  /** Where to start; otherwise what the URL's `lastEventId` says, or the present. */
  lastEventId?: string | null;
  /** The longest pause between attempts in milliseconds, 3,000 by default. The server may ask for more. */
  max_retry_time?: number;
  /** Does the work in place of `fetch`; also gets the options that are not named here. */
  eventSourceClass?: (new (url: string, options: any) => EventSourceLike) | null;
  [option: string]: unknown;
}

/** An `error` event. When the stream has ended for good, it says why. */
interface ReconnectingEventSourceErrorEvent extends Event {
  /** Of the `stream-error`, or "no-content" after an answer of 204. */
  readonly condition?: string;
  readonly text?: string;
}

interface ReconnectingEventSourceEventMap {
  open: Event;
  message: MessageEvent<string>;
  error: ReconnectingEventSourceErrorEvent;
}

/** An EventSource that goes on until it is closed, or the server says that trying again is of no use. */
declare class ReconnectingEventSource extends EventTarget implements EventSource {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSED: 2;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSED: 2;
  constructor(url: string | URL, options?: ReconnectingEventSourceInit | null);
  readonly url: string;
  readonly withCredentials: boolean;
  readonly readyState: number;
  readonly max_retry_time: number;
  onopen: ((this: EventSource, event: Event) => any) | null;
  onmessage: ((this: EventSource, event: MessageEvent) => any) | null;
  onerror: ((this: EventSource, event: ReconnectingEventSourceErrorEvent) => any) | null;
  addEventListener<K extends keyof ReconnectingEventSourceEventMap>(
    type: K,
    listener: (this: ReconnectingEventSource, event: ReconnectingEventSourceEventMap[K]) => any,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: (this: EventSource, event: MessageEvent) => any,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof ReconnectingEventSourceEventMap>(
    type: K,
    listener: (this: ReconnectingEventSource, event: ReconnectingEventSourceEventMap[K]) => any,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: (this: EventSource, event: MessageEvent) => any,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
  close(): void;
}

/** Thrown where neither `fetch` nor `EventSource` can stream, and no class is given. */
declare class EventSourceNotAvailableError extends Error {}
