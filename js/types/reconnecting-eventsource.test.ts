// What TypeScript must accept and refuse of the globals; never run.
export {};

const source = new ReconnectingEventSource("/events/?channel=a", {
  lastEventId: "a:1",
  max_retry_time: 5000,
  withCredentials: true,
});
new ReconnectingEventSource(new URL("https://example.com/"));
new ReconnectingEventSource("/events/", { eventSourceClass: EventSource });
new ReconnectingEventSource("/events/", { eventSourceClass: ReconnectingEventSource, headers: {} });

const wherever: EventSource = source;
wherever.onmessage = (event) => console.log(event.data, event.lastEventId);

source.onopen = () => {};
source.onerror = ({ condition, text }) => console.log(condition?.length, text?.length);
source.addEventListener("message", (event) => console.log(event.data.length), { once: true });
source.addEventListener("error", (event) => console.log(event.condition));
source.addEventListener("news", (event) => console.log(event.data, event.origin));
source.addEventListener("news", { handleEvent: (event: Event) => console.log(event.type) });
source.removeEventListener("news", null);
const state: number = source.readyState;
const closed: 2 = ReconnectingEventSource.CLOSED;
console.log(state === source.OPEN, closed, source.max_retry_time, source.withCredentials);
source.close();

const error: Error = new EventSourceNotAvailableError();
console.log(error.message);

// @ts-expect-error: needs a URL
new ReconnectingEventSource();
// @ts-expect-error: is a text
new ReconnectingEventSource("/events/", { lastEventId: 5 });
// @ts-expect-error: is no class
new ReconnectingEventSource("/events/", { eventSourceClass: "EventSource" });
// @ts-expect-error: cannot be set
source.readyState = 2;
// @ts-expect-error: cannot be set
source.url = "/other/";
// @ts-expect-error: may be missing
source.onerror = ({ condition }) => console.log(condition.length);
