// A room: its history came with the page, what follows comes from the stream.

import { EventStream } from "django-eventstream";
import { keep, kept } from "./kept.js";
import { Messages } from "./messages.js";
import { Outbox } from "./outbox.js";
import { Pauses, request } from "./request.js";

const page = JSON.parse(document.getElementById("page").textContent);
const [state, scroller, earlier, newer, notice, reason, again, composer, text] = [
  "state", "scroller", "earlier", "newer", "notice", "reason", "again", "composer", "text",
].map((id) => document.getElementById(id));

const messages = new Messages(page.user);
const outbox = new Outbox(
  page,
  (message) => messages.add(message),
  (content, error) => {
    // Back to where it can be mended, before what has been written since.
    text.value = [content, text.value].filter(Boolean).join("\n");
    saveDraft();
    notify(`Not sent. ${error.message}`);
  },
);

// The stream

const RECONNECTING = {
  connecting: "Reconnecting…",
  open: "Live",
  paused: "Paused", // by the browser, while it keeps the page for the way back
  closed: "Stopped",
};
let words = { ...RECONNECTING, connecting: "Connecting…" };
let streamState = "connecting";
let reloads = 0; // how many are under way
const pauses = new Pauses();

const stream = new EventStream(document.body.dataset.events, {
  shareKey: page.user, // All tabs of a person in a room have one connection.
  maxRetryTime: 5_000, // somebody is waiting
  onstatechange: changed,
  onreset: reload,
  onerror(error) {
    notify(error.data?.text ?? error.message, true);
  },
});
stream.on("message", ({ data }) => {
  messages.receive(data);
  outbox.confirm([data]);
});

function changed(name) {
  streamState = name;
  if (name === "open") {
    words = RECONNECTING;
    pauses.end();
    outbox.hope();
  }
  showState();
}

function showState() {
  let name = streamState;
  let text = words[name];
  if (name === "open" && reloads) [name, text] = ["connecting", "Catching up…"];
  // An open stream knows better: the server may be on this computer.
  if (name === "connecting" && !navigator.onLine) [name, text] = ["offline", "Offline"];
  if (state.textContent === text) return; // A screen reader would say it again.
  state.dataset.state = name;
  state.textContent = text;
}

// Events are gone that this page should have had: begin anew, as the page did. The stream goes on,
// and what it brings meanwhile stays.
async function reload() {
  messages.doubt();
  const mine = ++reloads;
  showState();
  for (;;) {
    try {
      const history = await request(page["messages-url"]);
      if (mine !== reloads) return; // There was another reset, and another reload.
      show(history, (...all) => messages.replace(...all));
      break;
    } catch {
      await pauses.wait();
      if (mine !== reloads) return;
    }
  }
  reloads = 0;
  showState();
}

// The messages

function show(history, how) {
  const isAll = history.messages.length < page["page-size"];
  how(history.messages, isAll);
  outbox.confirm(history.messages);
  earlier.hidden = isAll;
}

async function loadEarlier() {
  if (earlier.getAttribute("aria-busy") === "true") return;
  earlier.setAttribute("aria-busy", "true"); // and not disabled, which would take the focus away
  try {
    const url = `${page["messages-url"]}?before=${messages.oldest}`;
    show(await request(url), (older) => messages.fill(older));
    if (earlier.hidden) scroller.focus();
    notify("");
  } catch (error) {
    notify(`${error.message} Try again in a moment.`);
  }
  earlier.setAttribute("aria-busy", "false");
}

function notify(words, isEnd = false) {
  reason.textContent = words;
  again.hidden = !isEnd;
  notice.hidden = !words;
}

// The composer

const draft = `draft ${page.room} ${page.user}`;

function saveDraft() {
  keep(draft, text.value);
}

function send() {
  const content = text.value.trim();
  if (!content) return;
  outbox.add(content);
  text.value = "";
  saveDraft();
  if (again.hidden) notify("");
  messages.showEnd();
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
  text.focus();
});
text.addEventListener("input", saveDraft);
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
// A tap on the button must not close the phone's keyboard.
composer.querySelector("button").addEventListener("pointerdown", (event) => event.preventDefault());
earlier.addEventListener("click", loadEarlier);
newer.addEventListener("click", () => text.focus()); // The button goes, and would take the focus.
again.addEventListener("click", () => location.reload());
addEventListener("online", showState);
addEventListener("online", () => outbox.hope());
addEventListener("offline", showState);

text.value ||= kept(draft, ""); // Somebody may have been faster than this script.
composer.querySelector("button").disabled = false;
show(page, (history) => messages.fill(history));
outbox.send();
