// A room: its history came with the page, what follows comes from the stream.

const SILENCE = 50_000; // The server says something every 20 s; after this long the line is dead.
const FIRST_DELAY = 1_000;
const LONGEST_DELAY = 30_000;
const REQUEST_TIMEOUT = 15_000;
const CONTINUED = 5 * 60_000; // Messages of one author, this close together, share a heading.

const page = JSON.parse(document.getElementById("page").textContent);
const [state, scroller, earlier, messages, newer, notice, composer, text] = [
  "state", "scroller", "earlier", "messages", "newer", "notice", "composer", "text",
].map((id) => document.getElementById(id));
const title = document.title;

// The stream

let position = page["last-event-id"];
let source = null;
let heard = 0; // when the server last said something
let delay = FIRST_DELAY;
let timer = 0;
let stopped = false;

function connect() {
  disconnect();
  const query = new URLSearchParams({ channel: `room-${page.room}`, lastEventId: position });
  source = new EventSource(`/events/?${query}`);
  source.addEventListener("stream-open", opened);
  source.addEventListener("message", received);
  source.addEventListener("keep-alive", moved);
  source.addEventListener("stream-reset", reload);
  source.addEventListener("stream-error", refused);
  source.addEventListener("error", dropped);
}

function disconnect() {
  clearTimeout(timer);
  source?.close();
  heard = Date.now();
}

// The browser reconnects by itself after most failures, but not after an HTTP error.
function dropped() {
  setState("connecting", "Reconnecting…");
  if (source.readyState === EventSource.CLOSED) retry(connect);
}

function retry(action) {
  clearTimeout(timer);
  timer = setTimeout(action, delay * (0.5 + Math.random() / 2));
  delay = Math.min(delay * 2, LONGEST_DELAY);
}

function moved(event) {
  heard = Date.now();
  if (event.lastEventId) position = event.lastEventId;
}

function opened(event) {
  moved(event);
  delay = FIRST_DELAY;
  setState("live", "Live");
}

function received(event) {
  moved(event);
  const message = JSON.parse(event.data);
  if (message.from === page.user && message.text === unsure) sent();
  add(message);
}

// The server cannot give the stream all that was missed: begin anew, as the page did.
async function reload() {
  disconnect();
  setState("connecting", "Catching up…");
  try {
    const history = await request(page["messages-url"]);
    messages.replaceChildren();
    fill(history.messages);
    position = history["last-event-id"];
    connect();
  } catch {
    retry(reload);
  }
}

function refused(event) {
  stopped = true;
  disconnect();
  setState("stopped", "Stopped");
  notify(`${JSON.parse(event.data).text} Reload the page to try again.`);
}

// A phone that slept, or changed networks, may not notice that its connection is gone.
function revive() {
  if (!stopped && Date.now() - heard > SILENCE) connect();
}

function setState(name, words) {
  if (state.textContent === words) return; // not to be read out again
  state.dataset.state = name;
  state.textContent = words;
}

// The messages

function fill(newestFirst) {
  const height = scroller.scrollHeight - scroller.scrollTop;
  const atEnd = following;
  // Not new, and not to be read out.
  messages.parentElement.setAttribute("aria-busy", "true");
  newestFirst.toReversed().forEach(show);
  messages.parentElement.removeAttribute("aria-busy");
  earlier.hidden = newestFirst.length < page["page-size"];
  if (atEnd) toEnd();
  else scroller.scrollTop = scroller.scrollHeight - height;
}

function add(message) {
  if (!show(message)) return;
  if (following || message.from === page.user) toEnd();
  else newer.hidden = false;
  if (document.hidden) {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
}

// A message can come twice: with the history, the stream, or the answer to sending it. Its place
// is given by its id, for that answer overtakes the stream.
function show(message) {
  let previous = messages.lastElementChild;
  while (previous && Number(previous.dataset.id) > message.id) {
    previous = previous.previousElementSibling;
  }
  if (previous && Number(previous.dataset.id) === message.id) return false;
  const item = render(message);
  if (previous) previous.after(item);
  else messages.prepend(item);
  arrange(item);
  if (item.nextElementSibling) arrange(item.nextElementSibling);
  return true;
}

// Only ever textContent: what people write is text.
function render(message) {
  const item = document.createElement("li");
  item.dataset.id = message.id;
  item.dataset.author = message.from;
  item.classList.toggle("mine", message.from === page.user);
  const date = new Date(message.date);
  const author = element("span", "author", message.from);
  author.style.setProperty("--hue", hue(message.from));
  const time = element("time", "", date.toLocaleTimeString([], { timeStyle: "short" }));
  time.dateTime = message.date;
  time.title = date.toLocaleString();
  item.append(author, element("p", "", message.text), time);
  return item;
}

function element(name, className, content) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = content;
  made.dir = "auto";
  return made;
}

// What an item's heading shows depends on the item before it.
function arrange(item) {
  const previous = item.previousElementSibling;
  const [date, before] = [item, previous].map(
    (each) => each && new Date(each.querySelector("time").dateTime),
  );
  const newDay = date.toDateString() !== before?.toDateString();
  const words = { weekday: "long", day: "numeric", month: "long" };
  if (newDay) item.dataset.day = date.toLocaleDateString([], words);
  else delete item.dataset.day;
  const continued =
    !newDay && previous.dataset.author === item.dataset.author && date - before < CONTINUED;
  item.classList.toggle("continued", continued);
}

function hue(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) % 360;
  return sum;
}

async function loadEarlier() {
  earlier.disabled = true;
  try {
    const oldest = messages.firstElementChild.dataset.id;
    const history = await request(`${page["messages-url"]}?before=${oldest}`);
    fill(history.messages);
  } catch (error) {
    notify(error.message);
  }
  earlier.disabled = false;
}

// The end of the messages stays in sight unless the person scrolled away from it.

let following = true;
let unread = 0;

function scrolled() {
  following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
  if (following) newer.hidden = true;
}

function toEnd() {
  scroller.scrollTop = scroller.scrollHeight;
  following = true;
  newer.hidden = true;
}

// Sending

let unsure = null; // a text that may have been sent, though no answer came

async function send() {
  const content = text.value.trim();
  if (!content || text.readOnly) return;
  text.readOnly = true;
  unsure = content;
  try {
    const body = new URLSearchParams({ from: page.user, text: content });
    const message = await request(page["messages-url"], { method: "POST", body });
    sent();
    add(message);
  } catch (error) {
    if (unsure !== null) notify(`Not sent. ${error.message}`); // else the stream brought it
  }
  text.readOnly = false;
}

function sent() {
  if (text.value.trim() === unsure) text.value = "";
  unsure = null;
  notify("");
}

async function request(url, options = {}) {
  let response;
  try {
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT);
    response = await fetch(url, { cache: "no-store", signal, ...options });
  } catch {
    throw new Error("The server cannot be reached; try again in a moment.");
  }
  if (response.ok) return response.json();
  if (response.status !== 400) throw new Error(`The server failed (${response.status}).`);
  const { errors } = await response.json();
  throw new Error(Object.values(errors).join(" "));
}

function notify(words) {
  notice.textContent = words;
  notice.hidden = !words;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
earlier.addEventListener("click", loadEarlier);
newer.addEventListener("click", toEnd);
scroller.addEventListener("scroll", scrolled);
// The keyboard of a phone takes half of the room.
new ResizeObserver(() => following && toEnd()).observe(scroller);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
  revive();
});
addEventListener("online", () => stopped || connect());
addEventListener("pageshow", (event) => event.persisted && !stopped && connect());
setInterval(revive, 5_000);

fill(page.messages);
connect();
