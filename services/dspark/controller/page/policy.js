// The policy in force with what lies below it, and the newest changes.

import { byId, clock, duration, el, number, percent, show } from "./dom.js";

/** Draw a pool's policy. */
export function draw(state, changes) {
  const layers = [...state.layers].reverse();
  show(byId("policy"),
    el("p", {}, el("b", {}, describe(state.policy)), layers.length ? "" : ": the default, nobody changed it."),
    layers.length ? el("ol", { class: "log" }, layers.map((layer, index) => el("li", {},
      el("b", {}, index ? `below it: ${describe(layer.policy)}` : "in force"), ` by ${layer.author}: ${layer.reason}`,
      el("small", {}, ` change ${layer.change}, ${layer.until_unix_s === null ? "no end" : `for another ${duration(Math.max(0, layer.until_unix_s - Date.now() / 1000))}`}`)))) : "",
    changes.length ? el("h3", {}, "Changes") : "",
    el("ol", { class: "log" }, changes.slice(0, 8).map((change) => el("li", {},
      el("time", {}, clock(change.unix_s)), ` ${change.action} → ${describe(change.policy)} by ${change.author}: ${change.reason}`,
      el("small", {}, change.ttl_s === null ? "" : ` for ${duration(change.ttl_s)}`)))),
    el("p", { class: "note" }, "Change it with ", el("code", {}, "dspark budget set"), " or the API."));
}

function describe(policy) {
  const parts = [policy.mode === "pinned" ? `pinned at ${policy.draft_tokens}` : policy.mode];
  if (policy.floor !== null) parts.push(`floor ${policy.floor}`);
  if (policy.cap !== null) parts.push(`cap ${policy.cap}`);
  if (policy.activation_sessions !== null) parts.push(`verifies all below ${policy.activation_sessions} sessions`);
  if (policy.min_tokens_per_s !== null) parts.push(`each session is promised ${number(policy.min_tokens_per_s)} tokens/s`);
  if (policy.priority_weights.length) parts.push(`weights ${policy.priority_weights.map((one) => `${one.priority}: ${one.weight}`).join(", ")}`);
  if (policy.canary_share !== null) parts.push(`for ${percent(policy.canary_share)} of the replicas`);
  if (policy.shadow) parts.push("in shadow");
  return parts.join(", ");
}
