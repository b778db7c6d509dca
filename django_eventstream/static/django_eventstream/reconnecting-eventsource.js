// ReconnectingEventSource(url, options): an EventSource that does not give up.
//
// The browser's own ends for good when a server or proxy answers with an HTTP error. This one
// connects again, with growing and random pauses, and goes on where it was: the id of the last
// event is added to the URL as lastEventId, which django-eventstream reads. Only close() and a
// "stream-error" event, by which the server says that trying again is of no use, end it.
//
// Options: withCredentials, as of EventSource; lastEventId, where to start; max_retry_time, the
// longest pause in milliseconds; eventSourceClass, a constructor to use in place of EventSource,
// which is also given all other options.
(function (scope) {
  "use strict";

  const CONNECTING = 0;
  const OPEN = 1;
  const CLOSED = 2;
  const FIRST_PAUSE = 1000;
  const MAX_RETRY_TIME = 3000;

  class EventSourceNotAvailableError extends Error {
    constructor() {
      super("There is no EventSource here: load eventsource.min.js, or give eventSourceClass.");
      this.name = "EventSourceNotAvailableError";
    }
  }

  class ReconnectingEventSource extends EventTarget {
    onopen = null;
    onmessage = null;
    onerror = null;
    #url;
    #options;
    #source = null; // the EventSource in use; null: between two, or closed
    #timer;
    #failures = 0; // since the last success
    #readyState = CONNECTING;
    #lastEventId;
    // The types to hear of. The stream's own tell the position when the page hears no others.
    #types = new Set(["message", "stream-open", "stream-reset", "stream-error", "keep-alive"]);

    constructor(url, options) {
      super();
      const { lastEventId, max_retry_time, eventSourceClass, ...others } = options || {};
      this.#url = new URL(url, scope.document ? document.baseURI : undefined);
      this.#lastEventId = lastEventId || "";
      this.#options = others;
      this.max_retry_time = max_retry_time || MAX_RETRY_TIME;
      this.eventSourceClass = eventSourceClass || scope.EventSource;
      if (typeof this.eventSourceClass !== "function") {
        throw new EventSourceNotAvailableError();
      }
      for (const type of ["open", "message", "error"]) {
        super.addEventListener(type, (event) => {
          const handler = this["on" + type];
          if (typeof handler === "function") {
            handler.call(this, event);
          }
        });
      }
      this.#connect();
    }

    get url() {
      return this.#url.href;
    }

    get readyState() {
      return this.#readyState;
    }

    get withCredentials() {
      return Boolean(this.#options.withCredentials);
    }

    addEventListener(type, listener, options) {
      super.addEventListener(type, listener, options);
      // open and error are this object's own; it stays subscribed to the others.
      if (type !== "open" && type !== "error" && !this.#types.has(type)) {
        this.#types.add(type);
        if (this.#source) {
          this.#source.addEventListener(type, this.#receive);
        }
      }
    }

    close() {
      clearTimeout(this.#timer);
      this.#readyState = CLOSED;
      this.#disconnect();
    }

    #connect() {
      const url = new URL(this.#url);
      if (this.#lastEventId) {
        // Of several lastEventId parameters, the server reads the last one.
        const id = "lastEventId=" + encodeURIComponent(this.#lastEventId);
        url.search = url.search ? url.search + "&" + id : id;
      }
      const source = new this.eventSourceClass(url.href, this.#options);
      this.#source = source;
      for (const type of this.#types) {
        source.addEventListener(type, this.#receive);
      }
      // A server may name events "open" and "error": those have data.
      source.onopen = (event) =>
        event && "data" in event ? this.#receive(event) : this.#opened(source);
      source.onerror = (event) =>
        event && "data" in event ? this.#receive(event) : this.#failed(source);
    }

    #disconnect() {
      const source = this.#source;
      this.#source = null;
      if (source) {
        for (const type of this.#types) {
          source.removeEventListener(type, this.#receive);
        }
        source.onopen = source.onerror = null;
        source.close();
      }
    }

    #opened(source) {
      if (source === this.#source) {
        this.#failures = 0;
        this.#readyState = OPEN;
        this.dispatchEvent(new Event("open"));
      }
    }

    #failed(source) {
      if (source !== this.#source) {
        return;
      }
      this.#readyState = CONNECTING;
      if (source.readyState === CLOSED) {
        // The browser gave up. (While it is CONNECTING it tries again by itself.)
        this.#disconnect();
        const ceiling = Math.min(this.max_retry_time, FIRST_PAUSE * 2 ** this.#failures);
        this.#failures += 1;
        // Random: the clients of a server that failed must not come back all at once.
        this.#timer = setTimeout(() => this.#connect(), ceiling * (0.5 + Math.random() / 2));
      }
      this.dispatchEvent(new Event("error"));
    }

    #receive = (event) => {
      const { type, data, lastEventId, origin } = event;
      const ends = type === "stream-error";
      if (ends) {
        this.close();
      } else if (lastEventId) {
        // A new EventSource knows no id before the first event that has one: keep the old one.
        this.#lastEventId = lastEventId;
      }
      this.dispatchEvent(new MessageEvent(type, { data, lastEventId, origin }));
      if (ends) {
        this.dispatchEvent(new Event("error"));
      }
    };
  }

  for (const target of [ReconnectingEventSource, ReconnectingEventSource.prototype]) {
    Object.assign(target, { CONNECTING, OPEN, CLOSED });
  }

  Object.assign(scope, { ReconnectingEventSource, EventSourceNotAvailableError });
})(globalThis);
