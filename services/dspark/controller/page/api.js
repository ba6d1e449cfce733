// The control API: JSON, server-sent events, and what they refuse.  The token stays in this tab.

const KEY = "dspark-token";
const TIMEOUT_MS = 5000;

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** An answer that is none: status 0 where nobody answered at all. */
export class Refused extends Error {
  constructor(status, message, hint = "") {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/** Fetch JSON; throw Refused. */
export async function ask(path) {
  return (await call(path, { signal: AbortSignal.timeout(TIMEOUT_MS) })).json();
}

/** Yield {event, id, data} of a stream of server-sent events; throw Refused. */
export async function* listen(path, options = {}) {
  const answer = await call(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = { event: "message", id: "", data: "" };
        for (const line of block.split("\n")) {
          const at = line.indexOf(": ");
          const name = line.slice(0, Math.max(at, 0));
          if (Object.hasOwn(event, name)) event[name] = line.slice(at + 2);
        }
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function call(path, options) {
  const headers = { ...options.headers };
  const mine = token.get();
  if (mine) headers.authorization = `Bearer ${mine}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the controller does not answer");
  }
  if (answer.ok) return answer;
  if (answer.status === 401 && mine && token.get() === mine) token.forget(); // not one that came since
  let said = {};
  try {
    said = (await answer.json()).error ?? {};
  } catch {
    // A proxy's page, perhaps: its status has to do.
  }
  throw new Refused(answer.status, said.message ?? `status ${answer.status}`, said.hint ?? "");
}
