// One request of the viewer, drafted live: every token with its confidence and what became of it.

import { listen, Refused } from "./api.js";
import { byId, el, number, plural, show } from "./dom.js";

const EXAMPLES = [
  { kind: "code", prompt: "def read_lines(path):\n    \"\"\"Return the lines of a file.\"\"\"\n" },
  { kind: "prose", prompt: "glob\n\nFilename globbing utility.\n\n" },
  { kind: "arithmetic", prompt: "Problem 1. Subtract 3300 from 7518.\nWe subtract 3300 from 7518 digit by digit, from the right.\nPlace 1: 8 - 0 - borrow 0 = 8, write 8, borrow 0.\n" },
];

let running = null;
let chosen = EXAMPLES[0];
const tallies = new Map();

/** What was measured in this tab, by kind of text: {rounds, tokens, reached[], accepted[]}. */
export const measured = () => tallies;

/** Make the form work; changed is called when there is more to show elsewhere. */
export function start(changed) {
  const legend = [
    ["accepted", 0.9, "accepted", "drafted and committed"],
    ["rejected", 0.6, "rejected", "verified, and not what the target says"],
    ["unverified", 0.4, "not verified", "trimmed by the budget, or after a rejection"],
    ["own", null, "the target's own", "one a round, whatever is drafted"],
  ];
  show(byId("legend"), legend.map(([kind, confidence, text, title]) => el("span", { title }, chip(kind, confidence, text))), el("span", { class: "note" }, "A fuller colour: a higher confidence."));
  show(byId("presets"), EXAMPLES.map((example) => {
    const button = el("button", { type: "button", class: "link" }, example.kind);
    button.addEventListener("click", () => choose(example));
    return button;
  }));
  choose(chosen);
  show(byId("rounds"), el("li", { class: "note" }, "Send a prompt to see how it is drafted, round by round."));
  byId("prompt").addEventListener("input", () => mark(null));
  byId("try").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else run(changed);
  });
}

function choose(example) {
  byId("prompt").value = example.prompt;
  mark(example);
}

function mark(example) {
  chosen = example;
  [...byId("presets").children].forEach((button, index) => button.setAttribute("aria-pressed", EXAMPLES[index] === example));
}

async function run(changed) {
  running = new AbortController();
  byId("send").textContent = "Stop";
  show(byId("text"), el("span", { class: "prompt" }, byId("prompt").value));
  show(byId("rounds"));
  const tally = { rounds: 0, drafted: 0, verified: 0, accepted: 0, tokens: 0, began: performance.now(), first: null, kind: chosen?.kind ?? "your own" };
  say("Waiting for the first token.");
  try {
    const body = {
      prompt: byId("prompt").value,
      max_tokens: byId("max-tokens").valueAsNumber,
      temperature: byId("temperature").valueAsNumber,
    };
    const options = { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal: running.signal };
    for await (const event of listen("v1/try", options)) {
      if (event.data === "[DONE]") break;
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new Refused(chunk.error.status ?? 500, chunk.error.message, chunk.error.hint);
      for (const choice of chunk.choices) if (choice.speculation) round(choice.speculation, tally);
      changed();
    }
    say(summary(tally));
  } catch (error) {
    if (error.name === "AbortError") say(`Stopped. ${summary(tally)}`);
    else if (error instanceof Refused) say(`${error.message}. ${error.hint}`, "bad");
    else say("The stream broke.", "bad");
  } finally {
    running = null;
    byId("send").textContent = "Send";
  }
}

const say = (text, kind = "") => show(byId("try-said"), el("span", { class: kind }, text));

function summary(tally) {
  const seconds = (performance.now() - tally.began) / 1000;
  if (!tally.tokens) return "No token came.";
  const parts = [`${plural(tally.tokens, "token")} in ${number(seconds)} s`];
  if (tally.rounds) parts.push(`${plural(tally.rounds, "drafted round")}`, `τ ${number(1 + tally.accepted / tally.rounds, 2)}`, `${tally.drafted} drafted, ${tally.verified} verified, ${tally.accepted} accepted`);
  else parts.push("nothing was drafted: the budget is off, or no drafter is ready");
  return `${parts.join(" · ")}.`;
}

function round(step, tally) {
  tally.tokens += step.committed.length;
  const { draft, verified, accepted } = step;
  const own = step.committed.slice(accepted);
  byId("text").append(
    ...step.committed.slice(0, accepted).map((text, index) => chip("accepted", draft[index].confidence, text, `draft ${index + 1}, confidence ${number(draft[index].confidence, 2)}`, true)),
    ...own.map((text) => chip("own", null, text, "the target's own", true)),
  );
  const last = draft.length ? verdict(draft.length, verified, accepted) : tally.rounds || tally.tokens > 1 ? "no draft" : "first token";
  const entry = el("li", {},
    el("span", { class: "tokens" },
      draft.map((token, index) => {
        const kind = index < accepted ? "accepted" : index === accepted && index < verified ? "rejected" : "unverified";
        return chip(kind, token.confidence, token.token, `${index + 1}: confidence ${number(token.confidence, 2)}, ${WORDS[kind](index < verified)}`);
      }),
      el("span", { class: "then" }, draft.length ? "→" : ""),
      own.map((text) => chip("own", null, text, "the target's own")),
    ),
    el("span", { class: "count" }, last),
  );
  const rounds = byId("rounds");
  const follows = rounds.scrollHeight - rounds.scrollTop - rounds.clientHeight < 40;
  rounds.append(entry);
  if (follows) rounds.scrollTop = rounds.scrollHeight;
  if (!draft.length) return;
  tally.rounds += 1;
  tally.drafted += draft.length;
  tally.verified += verified;
  tally.accepted += accepted;
  remember(tally.kind, draft, verified, accepted);
}

function verdict(drafted, verified, accepted) {
  if (!verified) return `all ${drafted} trimmed`;
  return `${accepted} of ${verified} accepted${verified < drafted ? `, ${drafted - verified} trimmed` : ""}`;
}

const WORDS = {
  accepted: () => "accepted",
  rejected: () => "rejected",
  unverified: (judged) => (judged ? "after the rejection" : "trimmed by the budget"),
};

function remember(kind, draft, verified, accepted) {
  if (!tallies.has(kind)) tallies.set(kind, { rounds: 0, accepted: 0, judged: [], kept: [], stated: [] });
  const mine = tallies.get(kind);
  mine.rounds += 1;
  mine.accepted += accepted;
  let survival = 1;
  draft.forEach((token, index) => {
    survival *= token.confidence;
    if (index >= verified) return;
    mine.judged[index] = (mine.judged[index] ?? 0) + 1;
    mine.stated[index] = (mine.stated[index] ?? 0) + survival;
    mine.kept[index] = (mine.kept[index] ?? 0) + (index < accepted ? 1 : 0);
  });
}

function chip(kind, confidence, text, title = null, flowing = false) {
  const node = el("span", { class: `chip ${kind}${flowing ? " flowing" : ""}`, title }, flowing ? text : visible(text));
  if (confidence !== null) node.style.setProperty("--confidence", String(confidence));
  return node;
}

const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "\u00b7") || "∅";
