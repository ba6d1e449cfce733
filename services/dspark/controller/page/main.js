// The page: polls the control API, says how fresh what it shows is, and hands it to the sections.

import * as acceptance from "./acceptance.js";
import { ask, Refused, token } from "./api.js";
import * as budget from "./budget.js";
import { byId, clock, duration, el, show } from "./dom.js";
import * as draft from "./draft.js";
import * as events from "./events.js";
import * as fleet from "./fleet.js";
import * as policy from "./policy.js";
import * as trend from "./trend.js";

const PERIOD_MS = 2000;
const STALE_MS = 3 * PERIOD_MS;

const state = { fleet: null, curves: [], budget: null, policy: null, changes: [], pool: null, shownAt: 0, problem: null };
let timer = null;
let polls = 0;
let following = null;

async function poll() {
  clearTimeout(timer);
  const mine = ++polls;
  try {
    await refresh();
    if (mine !== polls) return; // a later one speaks
    state.shownAt = Date.now();
    state.problem = null;
    if (!following) {
      following = new AbortController();
      events.follow(following.signal);
    }
  } catch (error) {
    if (!(error instanceof Refused)) console.error(error);
    if (mine !== polls) return;
    state.problem = error;
    if (error.status === 401) {
      following?.abort();
      following = null;
    }
  }
  render();
  timer = setTimeout(poll, PERIOD_MS);
}

async function refresh() {
  const [seen, samples] = await Promise.all([ask("v1/fleet"), ask(`v1/trend?after=${trend.after()}`)]);
  trend.take(samples);
  const pools = seen.pools.filter((pool) => pool.role === "verifier");
  if (!pools.some((pool) => pool.name === state.pool)) state.pool = pools[0]?.name ?? null;
  if (state.pool !== null) {
    const name = encodeURIComponent(state.pool);
    const [why, inForce, history, curves] = await Promise.all([
      ask(`v1/pools/${name}/budget`), ask(`v1/pools/${name}/policy`), ask(`v1/changes?pool=${name}&limit=20`), ask("v1/curves"),
    ]);
    Object.assign(state, { budget: why, policy: inForce, changes: history.changes, curves: curves.curves });
  }
  state.fleet = seen;
}

function render() {
  renderPulse();
  const known = state.fleet !== null;
  byId("content").hidden = !known;
  if (!known) return;
  const pools = state.fleet.pools;
  const verifiers = pools.filter((pool) => pool.role === "verifier");
  const pool = verifiers.find((one) => one.name === state.pool);
  show(byId("pools"), verifiers.length < 2 ? [] : verifiers.map((one) => {
    const button = el("button", { class: "link", "aria-pressed": one.name === state.pool }, one.name);
    button.addEventListener("click", () => {
      state.pool = one.name;
      poll();
    });
    return button;
  }));
  show(byId("conditions"), pools.flatMap((one) => one.conditions.map((text) => el("li", {}, el("b", {}, one.name), ` ${text}`))));
  fleet.draw.last = () => fleet.draw(pools);
  fleet.draw(pools);
  events.draw();
  if (!pool) {
    show(byId("headline"), "No verifier has registered yet: nothing is served.");
    for (const place of ["trend", "budget", "acceptance", "policy"]) show(byId(place), el("p", { class: "note" }, "Shown once a verifier is there."));
    return;
  }
  show(byId("headline"), fleet.headline(pool, pools));
  const full = Math.max(1, ...(state.budget?.classes ?? []).map((why) => why.theta.at(-1)?.[0] ?? 0));
  trend.draw(pool.name, events.marks(pool.name), full);
  budget.draw(state.budget, state.curves, trend.of(pool.name));
  renderAcceptance();
  policy.draw(state.policy, state.changes);
}

function renderAcceptance() {
  const pool = state.fleet?.pools.find((one) => one.name === state.pool);
  if (!pool) return;
  const rounds = state.budget?.classes.reduce((most, why) => Math.max(most, why.committed_rounds), 0) ?? null;
  acceptance.draw(pool, rounds, draft.measured());
}

function renderPulse() {
  const age = Date.now() - state.shownAt;
  const { problem } = state;
  const kind = problem?.status === 0 || (problem && state.fleet) ? "lost" : problem ? "refused" : age > STALE_MS ? "stale" : "live";
  document.body.dataset.pulse = kind;
  const since = state.shownAt ? `${clock(state.shownAt / 1000)}, ${duration(age / 1000)} ago` : "";
  show(byId("pulse"), el("span", { class: "lamp" }), { live: "live", stale: "stale", lost: "disconnected", refused: "not shown" }[kind], state.fleet ? el("small", {}, ` term ${state.fleet.term}`) : "");
  const notice = byId("notice");
  notice.hidden = kind === "live";
  const signIn = problem?.status === 401;
  byId("sign-in").hidden = !signIn;
  if (kind === "live") return;
  const shown = state.fleet ? `What is shown is of ${since}.` : "Nothing is known yet.";
  if (signIn) show(notice, "The controller wants a token. ", state.fleet ? shown : "");
  else if (problem?.status === 0) show(notice, "The controller does not answer. ", shown, " Verifiers go on with the last budget until it expires, then by their own curve; no output is affected.");
  else if (problem) show(notice, `${problem.message}. ${problem.hint ?? ""} `, state.fleet ? shown : "");
  else show(notice, `Nothing new for ${duration(age / 1000)}. `, shown);
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  byId("token").value = "";
  poll();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else poll();
});
setInterval(renderPulse, 1000);
draft.start(renderAcceptance);
poll();
