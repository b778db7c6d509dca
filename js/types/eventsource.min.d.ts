// Gives the global EventSource, as lib.dom.d.ts declares it, to environments that have none.
export {};
