// Pools and their replicas.

import { byId, duration, el, number, percent, plural, show, svg } from "./dom.js";

const MOST = 100;
const unfolded = new Set();

/** Draw every pool. */
export function draw(pools) {
  if (!pools.length) {
    show(byId("fleet"), el("p", { class: "note" }, "No replica has registered yet."));
    return;
  }
  show(byId("fleet"), el("table", { class: "fleet" },
    el("thead", {}, el("tr", {},
      el("th", { scope: "col" }, "pool"), el("th", { scope: "col" }, "ready"), el("th", { scope: "col" }, "sessions"),
      el("th", { scope: "col" }, "tokens/s"), el("th", { scope: "col" }, "busy"), el("th", { scope: "col", class: "wide" }, "pages"),
      el("th", { scope: "col", class: "wide" }, "budget epoch"), el("th", { scope: "col", class: "wide" }, "report"))),
    pools.map(group)));
}

function group(pool) {
  const sum = (pick) => pool.replicas.reduce((total, replica) => total + pick(replica), 0);
  const short = pool.ready_replicas < pool.wanted_replicas;
  const open = unfolded.has(pool.name);
  const toggle = el("button", { class: "fold", "aria-expanded": open, title: open ? "Hide replicas" : "Show replicas" }, `${open ? "▾" : "▸"} ${pool.name}`);
  toggle.addEventListener("click", () => {
    if (!unfolded.delete(pool.name)) unfolded.add(pool.name);
    draw.last?.();
  });
  const rows = open ? pool.replicas.slice(0, MOST).map(replicaRow) : [];
  if (open && pool.replicas.length > MOST) rows.push(el("tr", { class: "replica" }, el("td", { colspan: 8, class: "note" }, `and ${pool.replicas.length - MOST} more`)));
  if (open && !pool.replicas.length) rows.push(el("tr", { class: "replica" }, el("td", { colspan: 8, class: "note" }, "no replica is registered")));
  return el("tbody", {},
    el("tr", {},
      el("th", { scope: "row" }, toggle, pool.role === pool.name ? "" : el("small", {}, ` ${pool.role}`), el("small", { class: "wide because" }, ` ${pool.wanted_because}`)),
      el("td", { class: short ? "bad" : "", title: pool.wanted_because }, `${pool.ready_replicas} of ${pool.wanted_replicas}`),
      el("td", {}, sessions(sum((r) => r.active_sessions), sum((r) => r.waiting_sessions))),
      el("td", {}, pool.role === "verifier" ? number(pool.tokens_per_s) : "–"),
      el("td", {}, bar(pool.busy_share)),
      el("td", { class: "wide" }, pages(sum((r) => r.free_pages), sum((r) => r.total_pages))),
      el("td", { class: "wide" }, range(pool.replicas.map((r) => r.budget_epoch))),
      el("td", { class: "wide" }, pool.replicas.length ? `${duration(Math.max(...pool.replicas.map((r) => r.seconds_since_report)))} ago` : "–")),
    rows);
}

function replicaRow(replica) {
  return el("tr", { class: "replica" },
    el("td", {}, el("code", {}, replica.name), el("small", {}, ` ${replica.address}`, replica.node ? ` on ${replica.node}` : "")),
    el("td", { class: replica.state === "ready" ? "" : "warn" }, replica.state),
    el("td", {}, sessions(replica.active_sessions, replica.waiting_sessions)),
    el("td", {}, replica.verified_tokens_per_step === null && !replica.tokens_per_s ? "–" : number(replica.tokens_per_s)),
    el("td", {}, bar(replica.busy_share)),
    el("td", { class: "wide" }, pages(replica.free_pages, replica.total_pages)),
    el("td", { class: "wide" }, replica.budget_epoch === null ? "–" : replica.budget_epoch),
    el("td", { class: "wide" }, `${duration(replica.seconds_since_report)} ago`));
}

const sessions = (active, waiting) => (waiting ? [number(active), el("span", { class: "bad" }, ` +${number(waiting)} waiting`)] : number(active));

function pages(free, total) {
  return total ? [bar((total - free) / total), el("small", {}, ` of ${number(total)}`)] : "–";
}

function range(epochs) {
  const known = epochs.filter((epoch) => epoch !== null);
  if (!known.length) return "–";
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return low === high ? low : `${low}–${high}`;
}

function bar(share) {
  if (share === null || share === undefined) return "–";
  const meter = svg("svg", { class: "bar", width: 46, height: 8, viewBox: "0 0 46 8", "aria-hidden": true },
    svg("rect", { class: "bed", x: 0, y: 0, width: 46, height: 8 }),
    svg("rect", { class: "full", x: 0, y: 0, width: (46 * Math.min(1, Math.max(0, share))).toFixed(1), height: 8 }));
  return el("span", { class: "meter" }, meter, percent(share));
}

/** The sentence over everything. */
export function headline(pool, pools) {
  const verifiers = plural(pool.ready_replicas, "verifier");
  const active = pool.replicas.reduce((sum, one) => sum + one.active_sessions, 0);
  const drafters = pools.filter((one) => one.role === "drafter").reduce((sum, one) => sum + one.ready_replicas, 0);
  const accepted = pool.accepted_length === null ? "" : ["; a drafted round commits ", el("b", {}, number(pool.accepted_length, 2))];
  if (!pool.ready_replicas) return ["No verifier is ready in ", el("b", {}, pool.name), ": nothing is served from it."];
  if (!active) return [el("b", {}, verifiers), ` and ${plural(drafters, "drafter")} wait for work.`];
  return [el("b", {}, verifiers), ` and ${plural(drafters, "drafter")} serve `, el("b", {}, plural(active, "session")), " at ", el("b", {}, `${number(pool.tokens_per_s)} tokens/s`), accepted, "."];
}
