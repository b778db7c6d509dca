// The list of messages, and the place in it.

const CONTINUED = 5 * 60_000; // Messages of one author, this close together, share a heading.
const NEAR_END = 48; // pixels
const READ_OUT = 5; // how many messages screen readers may be behind

/** Shows each message once, in the order of their ids. */
export class Messages {
  #list = document.getElementById("messages");
  #scroller = document.getElementById("scroller");
  #newer = document.getElementById("newer");
  #readOut = document.getElementById("read-out");
  #user;
  /** Counts the doubts; an item knows after which one it came. */
  #generation = 0;
  #isInDoubt = false;
  /** Up to this id nothing is missing, from the oldest message shown on. */
  #upTo = 0;
  /** Whether the end of the messages stays in sight: unless the person scrolled away from it. */
  #following = true;
  #unseen = 0; // messages below the part in sight
  #unread = 0; // messages that came while nobody saw the page
  #title = document.title;

  constructor(user) {
    this.#user = user;
    this.#scroller.addEventListener("scroll", () => this.#scrolled());
    this.#newer.addEventListener("click", () => this.showEnd());
    // The keyboard of a phone takes half of the room, and a long draft its part.
    new ResizeObserver(() => this.#following && this.showEnd()).observe(this.#scroller);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#countUnread(0);
    });
  }

  get oldest() {
    return this.#list.firstElementChild?.dataset.id;
  }

  /** Show messages that are not new. */
  fill(newestFirst) {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    newestFirst.toReversed().forEach((message) => this.#show(message));
    this.#upTo = Math.max(this.#upTo, newestFirst[0]?.id ?? 0);
    if (this.#following) this.showEnd();
    else this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd;
  }

  /** What was shown so far may be wrong: the next `replace` decides about it. */
  doubt() {
    this.#generation += 1;
    this.#isInDoubt = true;
  }

  /** Show this history in place of what was shown before `doubt`. */
  replace(newestFirst, isAll) {
    const oldest = newestFirst.at(-1)?.id ?? 0;
    // Where the history does not reach back to what was shown, a hole would be between them.
    const reachesBack = !isAll && oldest <= this.#upTo;
    for (const item of [...this.#list.children]) {
      const isOlder = Number(item.dataset.id) < oldest;
      if (Number(item.dataset.generation) < this.#generation && !(isOlder && reachesBack)) {
        item.remove();
      }
    }
    this.#upTo = 0;
    this.#isInDoubt = false;
    this.fill(newestFirst);
  }

  /** Show a message of the stream, which brings them in order. */
  receive(message) {
    if (!this.#isInDoubt) this.#upTo = Math.max(this.#upTo, message.id);
    this.add(message);
  }

  /** Show a new message, however it came. */
  add(message) {
    if (!this.#show(message)) return;
    const isOwn = message.from === this.#user;
    if (this.#following || isOwn) this.showEnd();
    else this.#countUnseen(this.#unseen + 1);
    if (isOwn) return;
    if (document.hidden) this.#countUnread(this.#unread + 1);
    // Apart from the list, so that a history is never read out.
    this.#readOut.append(element("p", "", `${message.from}: ${message.text}`));
    if (this.#readOut.childElementCount > READ_OUT) this.#readOut.firstElementChild.remove();
  }

  showEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#following = true;
    this.#countUnseen(0);
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#following = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (this.#following) this.#countUnseen(0);
  }

  #countUnseen(count) {
    this.#unseen = count;
    this.#newer.hidden = !count;
    if (count) this.#newer.textContent = count === 1 ? "1 new message" : `${count} new messages`;
  }

  #countUnread(count) {
    this.#unread = count;
    document.title = count ? `(${count}) ${this.#title}` : this.#title;
  }

  // A message can come more than once: with the history, by the stream, and as the answer to
  // sending it. Its place is given by its id, for that answer may overtake the stream.
  #show(message) {
    let previous = this.#list.lastElementChild;
    while (previous && Number(previous.dataset.id) > message.id) {
      previous = previous.previousElementSibling;
    }
    if (previous && Number(previous.dataset.id) === message.id) return false;
    const item = this.#render(message);
    if (previous) previous.after(item);
    else this.#list.prepend(item);
    arrange(item);
    if (item.nextElementSibling) arrange(item.nextElementSibling);
    return true;
  }

  #render(message) {
    const item = document.createElement("li");
    item.dataset.id = message.id;
    item.dataset.author = message.from;
    item.dataset.generation = this.#generation;
    item.classList.toggle("mine", message.from === this.#user);
    item.style.setProperty("--hue", hue(message.from));
    const [initial] = new Intl.Segmenter().segment(message.from);
    const avatar = element("span", "avatar", initial.segment.toLocaleUpperCase());
    avatar.setAttribute("aria-hidden", "true");
    const date = new Date(message.date);
    const time = element("time", "", date.toLocaleTimeString([], { timeStyle: "short" }));
    time.dateTime = message.date;
    time.title = date.toLocaleString();
    const author = element("span", "author", message.from);
    item.append(author, avatar, element("p", "", message.text), time);
    return item;
  }
}

/** Only ever textContent: what people write is text. */
export function element(name, className, content) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = content;
  made.dir = "auto";
  return made;
}

/** What an item's heading shows depends on the item before it. */
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

/** A colour for a name: a hash (FNV-1a), so that similar names differ. */
function hue(name) {
  let hash = 0x811c9dc5;
  for (const char of name) hash = Math.imul(hash ^ char.codePointAt(0), 0x01000193);
  return (hash >>> 0) % 360;
}
