// What a tab keeps beyond a reload. Where the browser forbids that, it is just not kept.

export function keep(name, value) {
  try {
    sessionStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Storage is switched off, or full.
  }
}

export function kept(name, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}
