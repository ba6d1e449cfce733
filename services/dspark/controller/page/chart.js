// Charts: little ink, labels at the lines themselves, axes that say only where they begin and end.

import { number, svg } from "./dom.js";

/** Return {root, x, y}: an empty chart with its two scales. */
export function frame({ width, height, left = 34, right = 12, top = 14, bottom = 18, x, y, label, log = false }) {
  const place = (value) => (log ? Math.log2(Math.max(value, 1)) : value);
  const scale = ([low, high], from, to) => {
    const [a, b] = [place(low), place(high)];
    return (value) => from + ((place(value) - a) / (b - a || 1)) * (to - from);
  };
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const yScale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  return { root, x: scale(x, left, width - right), y: yScale(y, height - bottom, top), width, height, left, right, top, bottom };
}

/** Return text in a chart. */
export function label(x, y, text, kind = "", anchor = "start") {
  return svg("text", { x: x.toFixed(1), y: y.toFixed(1), class: kind, "text-anchor": anchor }, text);
}

/** Return a polyline through [x, y] pairs; null breaks it. */
export function line(points, kind) {
  let path = "";
  let pen = "M";
  for (const point of points) {
    if (point === null) {
      pen = "M";
      continue;
    }
    path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  return svg("path", { d: path, class: `line ${kind}` });
}

/** Return a straight line. */
export function rule(x1, y1, x2, y2, kind) {
  return svg("line", { x1: x1.toFixed(1), y1: y1.toFixed(1), x2: x2.toFixed(1), y2: y2.toFixed(1), class: kind });
}

/** Return a dot. */
export function dot(x, y, kind, radius = 3.5) {
  return svg("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: radius, class: kind });
}

/** Return a round number at or above the largest of some values. */
export function ceiling(values, least) {
  const highest = Math.max(least, ...values.filter((value) => Number.isFinite(value)));
  const unit = 10 ** Math.floor(Math.log10(highest));
  for (const step of [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10]) if (step * unit >= highest) return step * unit;
  return highest;
}

const MARGINS = { left: 2, right: 30 };

/** Return the share of its time span, 0..1, that a point of a chart over time stands for. */
export function shareAt(root, clientX) {
  const box = root.getBoundingClientRect();
  const width = box.width - MARGINS.left - MARGINS.right;
  return Math.min(1, Math.max(0, (clientX - box.left - MARGINS.left) / width));
}

/**
 * Return a small chart over time.
 * series: [{kind, step, values: [number|null]}], of which the first one's last value is told.
 * marks: [{t, text}], hairlines where people or the controller changed something.
 */
export function overTime({ title, unit, times, series, marks, span, at, least, digits = null, width }) {
  const height = 100;
  const end = times.at(-1) ?? Date.now() / 1000;
  const high = ceiling(series.flatMap((one) => one.values), least);
  const chart = frame({ width, height, ...MARGINS, top: 8, x: [end - span, end], y: [0, high], label: title });
  const { root, x, y } = chart;
  const base = y(0);
  root.append(rule(x(end - span), base, x(end), base, "axis"));
  root.append(label(x(end) + 5, y(high) + 4, number(high), "tick"), label(x(end) + 5, base + 3, "0", "tick"));
  root.append(label(x(end - span), height - 4, `−${Math.round(span / 60)} min`, "tick"), label(x(end), height - 4, "now", "tick", "end"));
  for (const mark of marks) {
    if (mark.t < end - span || mark.t > end) continue;
    const hair = rule(x(mark.t), y(high), x(mark.t), base, "mark");
    hair.append(svg("title", {}, mark.text));
    root.append(hair);
  }
  for (const one of series) {
    const points = [];
    let before = null;
    one.values.forEach((value, index) => {
      const t = times[index];
      if (t < end - span) return;
      if (value === null || !Number.isFinite(value)) {
        points.push(null);
        before = null;
        return;
      }
      if (before !== null && t - before.t > 15) points.push(null); // nobody looked
      else if (before !== null && one.step) points.push([x(t), y(before.value)]);
      points.push([x(t), y(value)]);
      before = { t, value };
    });
    root.append(line(points, one.kind));
  }
  const index = at === null ? times.length - 1 : nearest(times, at);
  const told = series[0].values[index];
  if (index >= 0 && told !== null && Number.isFinite(told) && times[index] >= end - span) {
    root.append(dot(x(times[index]), y(told), `dot ${series[0].kind}`, 3));
    if (at !== null) root.append(rule(x(times[index]), y(high), x(times[index]), base, "cross"));
  }
  return { root, value: index < 0 ? null : told, time: times[index] ?? null, unit, digits };
}

function nearest(times, at) {
  let best = -1;
  times.forEach((t, index) => {
    if (best < 0 || Math.abs(t - at) < Math.abs(times[best] - at)) best = index;
  });
  return best;
}
