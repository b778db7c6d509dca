// The page of BrowsableAPIEventStreamRenderer: shows a stream's state and its last events.
(function () {
  "use strict";

  const MAX_EVENTS = 100;
  const OWN_TYPES = ["stream-open", "stream-reset", "stream-error", "keep-alive"];

  const panel = document.getElementById("eventstream");
  const state = document.getElementById("eventstream-state");
  const list = document.getElementById("eventstream-events");
  const keepAlives = document.getElementById("eventstream-keep-alives");

  function showState(name, text) {
    state.dataset.state = name;
    state.textContent = text;
  }

  function append(parent, tag, text) {
    const element = document.createElement(tag);
    element.textContent = text; // never as HTML: events hold what users wrote
    parent.append(element, " ");
    return element;
  }

  function indented(data) {
    try {
      return JSON.stringify(JSON.parse(data), null, 2);
    } catch {
      return data;
    }
  }

  function showEvent(event) {
    const item = document.createElement("li");
    item.dataset.type = event.type;
    append(item, "time", new Date().toLocaleTimeString());
    append(item, "strong", event.type);
    if (event.lastEventId && event.type !== "keep-alive") {
      append(item, "small", event.lastEventId);
    }
    if (event.data) {
      append(item, "pre", indented(event.data));
    }
    list.prepend(item);
    while (list.children.length > MAX_EVENTS) {
      list.lastChild.remove();
    }
  }

  showState("connecting", "Connecting");
  const source = new ReconnectingEventSource(panel.dataset.url);
  source.onopen = () => showState("open", "Connected");
  source.onerror = () => {
    if (source.readyState === ReconnectingEventSource.CLOSED) {
      showState("closed", "Ended");
    } else {
      showState("connecting", "Connection lost, reconnecting");
    }
  };
  for (const type of new Set([...JSON.parse(panel.dataset.types), ...OWN_TYPES])) {
    source.addEventListener(type, showEvent);
  }

  document.getElementById("eventstream-clear").addEventListener("click", () => {
    list.replaceChildren();
  });
  keepAlives.addEventListener("change", () => {
    list.classList.toggle("with-keep-alives", keepAlives.checked);
  });
})();
