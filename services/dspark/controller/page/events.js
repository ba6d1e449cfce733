// What happens, as it happens.

import { listen } from "./api.js";
import { byId, clock, el, show } from "./dom.js";

const SHOWN = 40;
const KEPT = 256;
const AGAIN_MS = 3000;

let events = [];
let last = 0;

/** Marks for charts: changes by people, and of the number of replicas. */
export const marks = (pool) =>
  events.filter((event) => event.kind === "replicas" || (event.kind === "policy" && event.pool === pool)).map((event) => ({ t: event.unix_s, text: `${clock(event.unix_s)} ${event.pool}: ${event.text}` }));

/** Follow events until the signal is aborted; a lost connection is taken up again where it broke. */
export async function follow(signal) {
  while (!signal.aborted) {
    try {
      for await (const { event: kind, id, data } of listen("v1/events", { signal, headers: { "last-event-id": String(last) } })) {
        if (!id) continue;
        if (Number(id) <= last) events = []; // another process counts from 1
        last = Number(id);
        events = [...events, { kind, ...JSON.parse(data) }].slice(-KEPT);
        draw();
      }
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

/** Draw the newest events, newest first. */
export function draw() {
  const newest = events.slice(-SHOWN).reverse();
  show(byId("events"), newest.length ? newest.map((event) => el("li", { class: event.kind },
    el("time", {}, clock(event.unix_s)), " ", el("b", {}, event.pool), ` ${event.text}`)) : el("li", { class: "note" }, "Nothing has happened since the controller began."));
}
