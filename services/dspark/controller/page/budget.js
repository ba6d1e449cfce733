// The budget of a pool: what decides it, Theta, the SPS curve with the operating point, the table.

import { ceiling, dot, frame, label, line, rule } from "./chart.js";
import { byId, columnWidth, el, number, plural, show, svg } from "./dom.js";

const HEIGHT = 220;
const TRAIL = 60;

/** Draw a pool's budget; samples are its trend. */
export function draw(budget, curves, samples) {
  const place = byId("budget");
  if (!budget.classes.length) {
    show(place, el("p", { class: "note" }, "No budget yet: a verifier has to be ready, and the controller has to have planned once. Until then each verifier admits by its own curve."));
    return;
  }
  const width = columnWidth(byId("acceptance"), 460); // the same grid
  show(place, budget.classes.map((why) => classOf(why, budget, curves, samples, width)));
}

function classOf(why, budget, curves, samples, width) {
  const curve = curves.find((one) => one.pool === budget.pool && one.version === why.curve_version);
  return el(
    "div", { class: "class" },
    el("p", { class: "sentence" },
      "A step of ", el("b", {}, plural(why.sessions, "session")),
      ` at ${number(Math.round(why.context_tokens))} tokens of context `, verdict(why.entry), ". ",
      "What decides: ", el("b", {}, why.binding), ".",
      why.planned_entry !== why.entry ? ` Planned was ${said(why.planned_entry)}.` : "",
      why.canaries.length ? el("b", { class: "warn" }, ` For the canaries ${why.canaries.join(", ")}.`) : "",
      why.sent ? "" : el("b", { class: "warn" }, " Shadow: computed, not sent."),
    ),
    el("p", { class: "note" }, [
      why.device || "no curve",
      `${number(why.committed_rounds)} committed rounds`,
      `draft round ${number(why.draft_round_ms)} ms`,
      why.cohorts === 2 ? "two cohorts alternate" : "one cohort",
      `term ${why.term}, epoch ${why.epoch}`,
      why.reason,
    ].join(" · ")),
    el("div", { class: "halves" }, theta(why, budget.policy, width), sps(why, curve, samples, width)),
    table(why),
  );
}

const said = (entry) => (entry === "all" ? "all drafts" : entry === "off" ? "no drafting" : plural(entry, "draft"));

function verdict(entry) {
  if (entry === "all") return [el("b", {}, "verifies all"), " that is drafted"];
  if (entry === "off") return [el("b", {}, "drafts nothing")];
  return ["verifies at most ", el("b", {}, plural(entry, "draft"))];
}

function theta(why, policy, width) {
  const caption = el("figcaption", {}, el("span", { class: "title" }, "Θ: tokens a second of a replica"), el("span", { class: "aside" }, "by draft tokens verified in a step"));
  if (!why.theta.length) return el("figure", {}, caption, el("p", { class: "note" }, "Nothing to compute it from: no usable curve, or no committed round yet. Everything is verified."));
  const last = why.theta.at(-1)[0];
  const off = why.off_tokens_per_s;
  const values = why.theta.map((point) => point[1]);
  const high = ceiling([...values, off ?? 0], 1);
  const { root, x, y } = frame({ width, height: HEIGHT, x: [0, Math.max(last, 1)], y: [0, high], label: "Theta" });
  const base = y(0);
  const bounds = { low: policy.floor ?? 0, high: policy.cap ?? last };
  if (bounds.high < last) root.append(svg("rect", { x: x(bounds.high), y: y(high), width: x(last) - x(bounds.high), height: base - y(high), class: "barred" }), label(x(bounds.high) + 4, y(high) + 10, `cap ${bounds.high}`, "warn"));
  if (bounds.low > 0) root.append(svg("rect", { x: x(0), y: y(high), width: x(Math.min(bounds.low, last)) - x(0), height: base - y(high), class: "barred" }), label(x(Math.min(bounds.low, last)) - 4, y(high) + 10, `floor ${bounds.low}`, "warn", "end"));
  root.append(rule(x(0), base, x(last), base, "axis"));
  root.append(label(x(0) - 5, y(high) + 4, number(high), "tick", "end"), label(x(0) - 5, base + 3, "0", "tick", "end"));
  root.append(label(x(last), base + 13, number(last), "tick", "end"), label(x(0), base + 13, "0", "tick"));
  if (off !== null) root.append(rule(x(0), y(off), x(last), y(off), "dotted"), label(x(last), y(off) - 4, `without drafting ${number(off)}`, "tick", "end"));
  root.append(line(why.theta.map(([k, value]) => [x(k), y(value)]), "ink"));
  const at = (entry) => (entry === "off" ? [x(0), y(off ?? 0)] : point(why.theta, entry === "all" ? last : Math.min(entry, last), x, y));
  if (why.planned_entry !== why.entry) root.append(dot(...at(why.planned_entry), "hollow", 4), label(...beside(at(why.planned_entry), x(last), 18), `planned ${why.planned_entry}`, "tick", anchor(at(why.planned_entry), x(last))));
  const now = at(why.entry);
  root.append(dot(...now, "dot accent", 4.5), label(...beside(now, x(last), -9), `now ${why.entry}`, "strong", anchor(now, x(last))));
  return el("figure", {}, caption, root);
}

function point(pairs, k, x, y) {
  const [at, value] = pairs.reduce((best, one) => (Math.abs(one[0] - k) < Math.abs(best[0] - k) ? one : best));
  return [x(at), y(value)];
}

const anchor = (at, edge) => (at[0] > edge - 60 ? "end" : "start");
const beside = (at, edge, dy) => [at[0] + (anchor(at, edge) === "end" ? -6 : 6), at[1] + dy];

function sps(why, curve, samples, width) {
  const caption = el("figcaption", {}, el("span", { class: "title" }, "SPS: steps a second of a replica"), el("span", { class: "aside" }, "by tokens in a step"));
  if (!curve || !curve.points.length) return el("figure", {}, caption, el("p", { class: "note" }, "No curve was measured (profile_at_start), so nothing is trimmed."));
  const counts = [...new Set(curve.points.map((one) => one.sessions))].sort((a, b) => a - b);
  const sessions = counts.find((count) => count >= why.sessions) ?? counts.at(-1);
  const rows = Map.groupBy(curve.points.filter((one) => one.sessions === sessions), (one) => one.context_tokens);
  const measured = samples.filter((one) => one.batch_tokens !== null && one.step_ms > 0).slice(-TRAIL);
  const speed = (one) => 1000 / one.step_ms;
  const largest = Math.max(2, ...[...rows.values()].flat().map((one) => one.batch_tokens), ...measured.map((one) => one.batch_tokens));
  const high = ceiling([...[...rows.values()].flat(), ...measured].map(speed), 1);
  const { root, x, y } = frame({ width, height: HEIGHT, right: 64, x: [1, largest], y: [0, high], log: true, label: "SPS curve" });
  const base = y(0);
  root.append(rule(x(1), base, x(largest), base, "axis"));
  root.append(label(x(1) - 5, y(high) + 4, number(high), "tick", "end"), label(x(1) - 5, base + 3, "0", "tick", "end"));
  for (let tokens = 1; tokens <= largest; tokens *= 4) root.append(label(x(tokens), base + 13, number(tokens), "tick", "middle"));
  const ends = [];
  for (const [context, points] of [...rows.entries()].sort((a, b) => a[0] - b[0])) {
    const sorted = points.toSorted((a, b) => a.batch_tokens - b.batch_tokens);
    root.append(line(sorted.map((one) => [x(one.batch_tokens), y(speed(one))]), "ink thin"));
    for (const one of sorted) root.append(dot(x(one.batch_tokens), y(speed(one)), "point", 1.6));
    ends.push({ at: y(speed(sorted.at(-1))), text: number(context), x: x(sorted.at(-1).batch_tokens) });
  }
  let above = -Infinity;
  for (const end of ends.sort((a, b) => a.at - b.at)) {
    above = Math.max(end.at, above + 10);
    root.append(label(end.x + 6, above + 3, `context ${end.text}`, "tick"));
  }
  for (const one of measured.slice(0, -1)) root.append(dot(x(one.batch_tokens), y(speed(one)), "trail", 2));
  const last = measured.at(-1);
  if (last) {
    const at = [x(last.batch_tokens), y(speed(last))];
    root.append(dot(...at, "dot accent", 4.5), label(...beside(at, x(largest), -9), `now ${number(speed(last))} (${number(last.step_ms)} ms)`, "strong", anchor(at, x(largest) - 60)));
  }
  return el("figure", {}, caption, root, el("p", { class: "note" },
    curve.problem ? el("b", { class: "warn" }, `Not used: ${curve.problem}. `) : "",
    `Lines: profiled with ${plural(sessions, "session")}. Dots: measured over the last two minutes, prompt chunks included.`));
}

function table(why) {
  const longest = Math.max(...why.table.map((row) => row.draft_tokens.length));
  const at = (row, sessions) => row.draft_tokens[Math.min(sessions, row.draft_tokens.length) - 1];
  const planned = (row) => why.planned.find((one) => one.max_context_tokens === row.max_context_tokens);
  const runs = [];
  for (let sessions = 1; sessions <= longest; sessions += 1) {
    const key = why.table.map((row) => `${at(row, sessions)}/${planned(row) ? at(planned(row), sessions) : ""}`).join();
    if (runs.at(-1)?.key === key) runs.at(-1).to = sessions;
    else runs.push({ key, from: sessions, to: sessions });
  }
  const head = runs.map((run, index) => {
    const open = index === runs.length - 1;
    return el("th", { scope: "col" }, open ? `${run.from}+` : run.from === run.to ? run.from : `${run.from}–${run.to}`);
  });
  const current = why.table.find((row) => why.context_tokens <= row.max_context_tokens) ?? why.table.at(-1);
  const meaning = "Draft tokens a step verifies, by context (rows) and sessions in the step (columns). Outlined: the step that replicas run now.";
  return [el("p", { class: "note" }, meaning), el("div", { class: "scroll" }, el("table", { class: "budget", "aria-label": meaning },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "context"), head)),
    el("tbody", {}, why.table.map((row, index) => el("tr", {},
      el("th", { scope: "row" }, index === why.table.length - 1 && why.table.length > 1 ? `${number(why.table[index - 1].max_context_tokens)}+` : index === 0 && why.table.length === 1 ? "any" : `≤ ${number(row.max_context_tokens)}`),
      runs.map((run) => {
        const entry = at(row, run.from);
        const before = planned(row) ? at(planned(row), run.from) : entry;
        const here = row === current && why.sessions >= run.from && (why.sessions <= run.to || run === runs.at(-1));
        return el("td", { class: [here ? "here" : "", typeof entry === "string" ? entry : ""].join(" ") }, entry, before !== entry ? [" ", el("s", { title: "planned, before the policy" }, before)] : "");
      }),
    )))))];
}
