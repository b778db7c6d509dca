// Messages on their way: each is sent until the server has it, and the server takes each once.

import { keep, kept } from "./kept.js";
import { element } from "./messages.js";
import { Pauses, Refused, request } from "./request.js";

const LATE = 1_000; // Only what takes longer is worth words.

/**
 * Sends messages one after the other, and shows them until they are in the room.
 *
 * They are kept in the tab's storage: a reload of the page, or the browser's end, loses none.
 */
export class Outbox {
  #list = document.getElementById("outbox");
  #pauses = new Pauses();
  #page;
  #onsent;
  #onrefused;
  #name;
  #entries;
  #isSending = false;

  constructor(page, onsent, onrefused) {
    this.#page = page;
    this.#onsent = onsent;
    this.#onrefused = onrefused;
    this.#name = `outbox ${page.room} ${page.user}`;
    this.#entries = kept(this.#name, []);
    for (const entry of this.#entries) this.#show(entry);
  }

  add(text) {
    // By the key the server knows a message that is sent again, because no answer came.
    const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
    const entry = { key, text };
    this.#entries.push(entry);
    this.#save();
    this.#show(entry);
    this.send();
  }

  /** These messages are in the room. */
  confirm(messages) {
    for (const { key } of messages) if (key) this.#remove(key);
  }

  /** There is reason to believe that the server can be reached. */
  hope() {
    this.#pauses.end();
  }

  async send() {
    if (this.#isSending) return;
    this.#isSending = true;
    while (this.#entries.length) {
      const { key, text } = this.#entries[0];
      try {
        const body = new URLSearchParams({ from: this.#page.user, text, key });
        const message = await request(this.#page["messages-url"], { method: "POST", body });
        this.#remove(key);
        this.#onsent(message);
      } catch (error) {
        if (error instanceof Refused) {
          this.#remove(key);
          this.#onrefused(text, error);
        } else if (this.#entries.length) {
          await this.#pauses.wait();
        }
      }
    }
    this.#isSending = false;
  }

  #show({ key, text }) {
    const item = document.createElement("li");
    item.className = "mine continued";
    item.dataset.key = key;
    const status = element("span", "status", "");
    item.append(element("p", "", text), status);
    setTimeout(() => (status.textContent = "Waiting…"), LATE);
    this.#list.append(item);
  }

  #remove(key) {
    this.#entries = this.#entries.filter((entry) => entry.key !== key);
    this.#save();
    for (const item of this.#list.children) {
      if (item.dataset.key === key) {
        item.remove();
        return;
      }
    }
  }

  #save() {
    keep(this.#name, this.#entries);
  }
}
