/** What the interface of EventSource asks of a class, as Web IDL has it. */

export const CONNECTING = 0;
export const OPEN = 1;
export const CLOSED = 2;

/**
 * What an object shows to the page.
 *
 * @typedef {object} State
 * @property {string} url
 * @property {boolean} withCredentials
 * @property {number} readyState
 * @property {Record<string, { handler: object, listener: (event: Event) => void }>} handlers
 */

/**
 * The state of an object that begins to connect.
 *
 * @param {IArguments} given  The constructor's arguments: a URL and a dictionary.
 * @returns {State}
 */
export function begin(given) {
  const [url, options = null] = given;
  if (!given.length || (Object(options) !== options && options !== null)) {
    throw new TypeError("expected a URL, and an object of options");
  }
  const withCredentials = Boolean(options?.withCredentials);
  return { url: resolve(url), withCredentials, readyState: CONNECTING, handlers: {} };
}

/** @param {string | URL} url */
function resolve(url) {
  try {
    return new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href).href;
  } catch {
    throw new DOMException(`"${url}" is no URL`, "SyntaxError");
  }
}

const { addEventListener, removeEventListener } = EventTarget.prototype;

/**
 * Give a class the constants and the attributes of the interface.
 *
 * Attributes stand on the prototype and are enumerable, which those of a class are not.
 *
 * @template {EventTarget} T
 * @param {{ new (...given: any[]): T, prototype: T }} target
 * @param {string} name
 * @param {(object: any) => State} stateOf  Throws TypeError for what is no instance.
 */
export function describe(target, name, stateOf) {
  const { prototype } = target;
  /** @param {string} key @param {PropertyDescriptor} descriptor */
  const attribute = (key, descriptor) =>
    Object.defineProperty(prototype, key, { ...descriptor, enumerable: true, configurable: true });
  for (const key of /** @type {const} */ (["url", "withCredentials", "readyState"])) {
    attribute(key, {
      get() {
        return stateOf(this)[key];
      },
    });
  }
  for (const type of ["open", "message", "error"]) {
    attribute(`on${type}`, {
      get() {
        return stateOf(this).handlers[type]?.handler ?? null;
      },
      // A handler is called in the order in which the first one was set: HTML, 8.1.8.1.
      set(value) {
        const { handlers } = stateOf(this);
        const known = handlers[type];
        if (Object(value) !== value) {
          removeEventListener.call(this, type, known?.listener);
          delete handlers[type];
        } else if (known) {
          known.handler = value;
        } else {
          const added = (handlers[type] = {
            handler: value,
            /** @param {Event} event */
            listener: (event) => {
              if (typeof added.handler === "function") {
                added.handler.call(this, event);
              }
            },
          });
          addEventListener.call(this, type, added.listener);
        }
      },
    });
  }
  for (const [key, value] of Object.entries({ CONNECTING, OPEN, CLOSED })) {
    Object.defineProperty(target, key, { value, enumerable: true });
    Object.defineProperty(prototype, key, { value, enumerable: true });
  }
  Object.defineProperty(prototype, "close", { enumerable: true });
  Object.defineProperty(prototype, Symbol.toStringTag, { value: name, configurable: true });
}

/**
 * Make a class global, by a name that minifying would not leave to it.
 *
 * @param {Function} target @param {string} name
 */
export function expose(target, name) {
  Object.defineProperty(target, "name", { value: name, configurable: true });
  Object.defineProperty(globalThis, name, { value: target, writable: true, configurable: true });
}
