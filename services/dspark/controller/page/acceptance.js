// Acceptance: by position, as the fleet states it and as this tab measured it, and by kind of text.

import { dot, frame, label, line, rule } from "./chart.js";
import { byId, columnWidth, el, number, percent, show } from "./dom.js";

/** Draw it. pool: as the API has it; rounds: committed ones that are known; tallies: of draft.js. */
export function draw(pool, rounds, tallies) {
  show(byId("acceptance"), byPosition(pool, rounds), byKind(tallies));
}

function byPosition({ survival, acceptance, confidence }, rounds) {
  const caption = el("figcaption", {}, el("span", { class: "title" }, "By position in the draft"), el("span", { class: "aside" }, "of drafts that were judged, and what confidences said"));
  const count = Math.max(survival.length, acceptance.length);
  if (!count) return el("figure", {}, caption, el("p", { class: "note" }, "No committed round is known yet."));
  const last = Math.max(count, 2);
  const { root, x, y } = frame({ width: columnWidth(byId("acceptance"), 460), height: 210, right: 76, x: [1, last], y: [0, 1], label: "Acceptance by position" });
  root.append(rule(x(1) - 8, y(0), x(last), y(0), "axis"));
  root.append(label(x(1) - 14, y(1) + 4, "1", "tick", "end"), label(x(1) - 14, y(0) + 3, "0", "tick", "end"));
  for (let position = 1; position <= count; position += 1) root.append(label(x(position), y(0) + 13, position, "tick", "middle"));
  const draws = [
    { values: survival, kind: "thin", name: "survival", below: true },
    { values: confidence, kind: "bound", name: "stated" },
    { values: acceptance, kind: "accent", name: "accepted" },
  ];
  const taken = [];
  for (const { values, kind, name, below } of draws) {
    if (!values.length) continue;
    const points = values.map((value, index) => [x(index + 1), y(value)]);
    root.append(line(points, kind));
    if (kind !== "bound") points.forEach(([px, py], index) => root.append(dot(px, py, `dot ${kind}`, 2.4), label(px, py + (below ? 15 : -7), number(values[index], 2), below ? "tick" : "accent", "middle")));
    let at = points.at(-1)[1] + 4;
    while (taken.some((other) => Math.abs(other - at) < 12)) at += 2;
    taken.push(at);
    root.append(label(points.at(-1)[0] + 16, at, name, below ? "tick" : "accent"));
  }
  return el("figure", {}, caption, root, el("p", { class: "note" },
    `Accepted: share of the drafts verified with all before them accepted. Stated: the mean confidence of the same drafts; far from it, calibrate. Survival: the stated chance that a draft and all before it are accepted, over ${rounds === null ? "the" : number(rounds)} committed rounds: what budgets are computed from.`));
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
