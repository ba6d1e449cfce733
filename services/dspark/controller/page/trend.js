// The last minutes of a pool, as small multiples that share their time axis.

import { overTime, shareAt } from "./chart.js";
import { byId, clock, columnWidth, el, number, show } from "./dom.js";

const SPAN_S = 20 * 60;

let samples = [];
let newest = 0;
let pointed = null; // share of the time span under the pointer
let drawn = () => {};

/** Take what /v1/trend?after=N said. */
export function take(answer) {
  if (answer.newest < newest) samples = []; // another process counts from 1
  const first = answer.samples[0]?.number ?? 0;
  if (first && first <= newest) samples = [];
  samples.push(...answer.samples);
  newest = answer.newest;
  const horizon = (samples.at(-1)?.unix_s ?? 0) - SPAN_S - 60;
  samples = samples.filter((sample) => sample.unix_s >= horizon);
}

/** The number to ask for the samples after. */
export const after = () => newest;

/** The samples of a pool, oldest first. */
export const of = (pool) => samples.filter((sample) => sample.pool === pool);

byId("trend").addEventListener("pointermove", (event) => {
  const figure = event.target.closest("figure");
  point(figure === null ? null : shareAt(figure.lastChild, event.clientX));
});
byId("trend").addEventListener("pointerleave", () => point(null));

function point(share) {
  if (share === pointed) return;
  pointed = share;
  requestAnimationFrame(() => drawn());
}

/** Draw a pool. marks: [{t, text}]. full: the number that stands for "all" in the picture. */
export function draw(pool, marks, full) {
  drawn = () => drawNow(pool, marks, full);
  drawn();
}

function drawNow(pool, marks, full) {
  const mine = of(pool);
  const place = byId("trend");
  if (!mine.length) {
    show(place, el("p", { class: "note" }, "No samples yet: the first comes within two seconds of a controller leading."));
    return;
  }
  const times = mine.map((sample) => sample.unix_s);
  const span = Math.min(SPAN_S, Math.max(120, times.at(-1) - times[0]));
  const values = (pick) => mine.map(pick);
  const classes = [...new Set(mine.flatMap((sample) => Object.keys(sample.entries)))];
  const height = (entry) => (entry === "all" ? full : entry === "off" ? 0 : entry ?? null);
  const charts = [
    { title: "Committed", unit: "tokens/s", least: 10, series: [{ kind: "ink", values: values((s) => s.tokens_per_s) }] },
    { title: "Accepted length τ", unit: "tokens a round", least: 2, digits: 2, series: [{ kind: "ink", values: values((s) => s.accepted_length) }] },
    {
      title: "Verified drafts", unit: "a step", least: 4,
      series: [
        { kind: "ink", values: values((s) => s.verified_tokens_per_step) },
        ...classes.map((name) => ({ kind: "bound", step: true, values: values((s) => height(s.entries[name])) })),
      ],
      note: budgetNote(mine, classes),
    },
    {
      title: "Sessions", unit: "active", least: 4,
      series: [
        { kind: "ink", step: true, values: values((s) => s.active_sessions) },
        { kind: "bad", step: true, values: values((s) => s.waiting_sessions || null) },
      ],
      note: (s) => (s.waiting_sessions ? ["bad", `${s.waiting_sessions} waiting`] : ["", "none waiting"]),
    },
    { title: "Step", unit: "ms", least: 5, series: [{ kind: "ink", values: values((s) => s.step_ms) }], note: (s) => ["", s.batch_tokens === null ? "no steps" : `${number(s.batch_tokens)} tokens in it`] },
  ];
  const width = columnWidth(place, 240);
  show(place, charts.map((chart) => figure(chart, { times, marks, span, mine, width })));
}

function figure(chart, { times, marks, span, mine, width }) {
  const drawnChart = overTime({ ...chart, times, marks, span, width, at: pointed === null ? null : times.at(-1) - span * (1 - pointed) });
  const sample = mine.find((one) => one.unix_s === drawnChart.time);
  const [kind, text] = chart.note && sample ? chart.note(sample) : ["", ""];
  return el(
    "figure", {},
    el("figcaption", {},
      el("span", { class: "title" }, chart.title),
      el("span", { class: "value" }, number(drawnChart.value, drawnChart.value === null ? null : drawnChart.digits), el("small", {}, ` ${chart.unit}`)),
      el("span", { class: `aside ${kind}` }, pointed === null || !sample ? text : `${clock(sample.unix_s)}${text ? ` · ${text}` : ""}`),
    ),
    drawnChart.root,
  );
}

function budgetNote(mine, classes) {
  return (sample) => {
    const entries = classes.map((name) => sample.entries[name]).filter((entry) => entry !== undefined);
    return ["budget", entries.length ? `budget ${[...new Set(entries)].join(" / ")}` : "no budget"];
  };
}
