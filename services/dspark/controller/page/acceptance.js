// Acceptance: by position, as the fleet states it and as this tab measured it, and by kind of text.

import { dot, frame, label, line, rule } from "./chart.js";
import { byId, el, number, percent, plural, show } from "./dom.js";

/** Draw it. survival: a_1 .. a_n of committed rounds; tallies: of draft.js. */
export function draw(survival, rounds, tallies) {
  show(byId("acceptance"), byPosition(survival, rounds, sum(tallies)), byKind(tallies));
}

function sum(tallies) {
  const all = { rounds: 0, judged: [], kept: [] };
  for (const one of tallies.values()) {
    all.rounds += one.rounds;
    for (const key of ["judged", "kept"]) one[key].forEach((count, index) => (all[key][index] = (all[key][index] ?? 0) + count));
  }
  return all;
}

function byPosition(survival, rounds, mine) {
  const caption = el("figcaption", {}, el("span", { class: "title" }, "By position in the draft"), el("span", { class: "aside" }, "chance that it and all before it are accepted"));
  const count = Math.max(survival.length, mine.judged.length);
  if (!count) return el("figure", {}, caption, el("p", { class: "note" }, "No committed round is known yet."));
  const { root, x, y } = frame({ width: 460, height: 200, right: 90, x: [1, Math.max(count, 2)], y: [0, 1], label: "Acceptance by position" });
  root.append(rule(x(1) - 8, y(0), x(Math.max(count, 2)), y(0), "axis"));
  root.append(label(x(1) - 14, y(1) + 4, "1", "tick", "end"), label(x(1) - 14, y(0) + 3, "0", "tick", "end"));
  for (let position = 1; position <= count; position += 1) root.append(label(x(position), y(0) + 13, position, "tick", "middle"));
  if (survival.length) {
    const points = survival.map((value, index) => [x(index + 1), y(value)]);
    root.append(line(points, "ink"));
    points.forEach(([px, py], index) => root.append(dot(px, py, "point", 2.2), label(px, py - 7, number(survival[index], 2), "tick", "middle")));
    root.append(label(points.at(-1)[0] + 8, points.at(-1)[1] + 4, "stated, fleet", "tick"));
  }
  mine.judged.forEach((judged, index) => root.append(dot(x(index + 1), y(mine.kept[index] / judged), "hollow accent", 4)));
  if (mine.judged.length) {
    const height = y(mine.kept.at(-1) / mine.judged.at(-1));
    const clash = survival.length === mine.judged.length && Math.abs(height - y(survival.at(-1))) < 12;
    root.append(label(x(mine.judged.length) + 8, height + (clash ? 16 : 4), "seen, this tab", "accent"));
  }
  const tab = mine.rounds ? ` Circles: accepted of what was verified in the ${plural(mine.rounds, "round")} of this tab.` : "";
  return el("figure", {}, caption, root, el("p", { class: "note" }, `Line: mean stated survival of ${rounds === null ? "the" : number(rounds)} committed rounds, which budgets are computed from.${tab}`));
}

function byKind(tallies) {
  const caption = el("figcaption", {}, el("span", { class: "title" }, "By kind of text"), el("span", { class: "aside" }, "requests sent from this tab"));
  if (!tallies.size) return el("figure", {}, caption, el("p", { class: "note" }, "The service does not know what a request is about, so only requests sent above are told apart: by the example that they began with."));
  const rows = [...tallies.entries()].map(([kind, one]) => el("tr", {},
    el("th", { scope: "row" }, kind),
    el("td", {}, number(one.rounds)),
    el("td", {}, number(1 + one.accepted / one.rounds, 2)),
    el("td", {}, percent(one.kept[0] / one.judged[0])),
    el("td", {}, percent(total(one.kept) / total(one.judged))),
    el("td", {}, percent(total(one.stated) / total(one.judged))),
  ));
  return el("figure", {}, caption,
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, ["", "rounds", "τ", "first", "all", "stated"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows))),
    el("p", { class: "note" }, "first: first drafts accepted. all: of all verified drafts. stated: what their confidences said; far from “all”, calibrate for such traffic."));
}

const total = (values) => values.reduce((sum, value) => sum + (value ?? 0), 0);
