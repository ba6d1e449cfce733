// Drives the dashboard in a real browser: node page.mjs '{"story": ..., "url": ..., ...}'.
// Prints what was seen as JSON; whoever runs it judges.

import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";

const given = JSON.parse(process.argv[2]);
const { chromium } = createRequire(given.modules)("playwright-core");
const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox"] });
const size = given.size ?? { width: 1320, height: 1000 };
const context = await browser.newContext({ viewport: size, colorScheme: given.scheme ?? "light" });
const page = await context.newPage();
page.setDefaultTimeout(given.patience_ms ?? 20000);
const complaints = [];
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(String(error)));

const text = (selector) => page.locator(selector).innerText();
const count = (selector) => page.locator(selector).count();
const live = () => page.waitForSelector('[data-pulse="live"] #headline:not(:empty)');

const stories = {
  async empty() {
    await live();
    return { headline: await text("#headline"), fleet: await text("#fleet"), budget: await text("#budget") };
  },

  async running() {
    await live();
    await page.waitForSelector("#trend svg");
    const change = { policy: { cap: 1 }, reason: "<b>a test</b>" };
    const status = await page.evaluate(async (body) => (await fetch("v1/pools/verifier/policy", { method: "PUT", headers: { "content-type": "application/json" }, body })).status, JSON.stringify(change));
    await page.waitForFunction(() => document.getElementById("policy").innerText.includes("cap 1"));
    await page.waitForFunction(() => document.getElementById("events").innerText.includes("change 1"));
    const chart = await page.locator("#trend figure").first().boundingBox();
    await page.mouse.move(chart.x + chart.width / 2, chart.y + chart.height - 30);
    await page.waitForFunction(() => /\d\d:\d\d:\d\d/.test(document.querySelector("#trend .aside").innerText));
    await page.mouse.move(0, 0);
    await page.click("button.fold");
    await page.waitForSelector("tr.replica");
    return { status, headline: await text("#headline"), budget: await text("#budget"), policy: await text("#policy"), here: await text("td.here"), trend: await text("#trend"), replicas: await text("#fleet"), bold: await count("#policy b b") };
  },

  async draft() {
    await live();
    await page.fill("#prompt", given.prompt ?? "def");
    await page.fill("#max-tokens", String(given.tokens ?? 96));
    await page.click("#send");
    await page.waitForFunction(() => /τ|drafted/.test(document.getElementById("try-said").innerText));
    const chips = {};
    for (const kind of ["accepted", "rejected", "unverified", "own"]) chips[kind] = await page.locator(`#rounds .chip.${kind}`).allInnerTexts();
    const shade = (kind) => page.locator(`#rounds .chip.${kind}`).first().evaluate((node) => node.style.getPropertyValue("--confidence"));
    return { chips, shade: chips.accepted.length ? await shade("accepted") : null, text: await text("#text"), said: await text("#try-said"), images: await count("img"), title: await page.title(), acceptance: await text("#acceptance") };
  },

  async token() {
    await page.waitForSelector("#sign-in:not([hidden])");
    const before = await page.locator("#content").isVisible();
    await page.fill("#token", "wrong");
    await page.click("#sign-in button");
    await page.waitForFunction(() => document.getElementById("token").value === "");
    await page.waitForTimeout(300);
    const wrong = await page.locator("#sign-in").isVisible();
    await page.fill("#token", given.token);
    await page.click("#sign-in button");
    await live();
    const kept = await page.evaluate(() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]);
    complaints.length = 0; // the browser notes each 401
    return { before, wrong, after: await page.locator("#sign-in").isVisible(), kept };
  },

  async lost() {
    await live();
    const headline = await text("#headline");
    await context.setOffline(true);
    await page.waitForSelector('[data-pulse="lost"] #notice:not([hidden])');
    const seen = { notice: await text("#notice"), pulse: await text("#pulse"), still: (await text("#headline")) === headline };
    await context.setOffline(false);
    await live();
    complaints.length = 0; // the browser notes each request that failed
    return { ...seen, back: await page.locator("#notice").isVisible() };
  },

  async phone() {
    await live();
    await page.click("#send");
    await page.waitForFunction(() => /τ/.test(document.getElementById("try-said").innerText));
    return { sideways: await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), paper: await page.evaluate(() => getComputedStyle(document.body).backgroundColor) };
  },
};

try {
  await page.goto(given.url);
  const seen = await stories[given.story]();
  if (given.picture) {
    await page.waitForTimeout(2500);
    await page.evaluate(() => document.activeElement.blur());
    const end = await page.evaluate(() => window.scrollY + document.querySelector("section[aria-labelledby=h-acceptance]").getBoundingClientRect().bottom);
    writeFileSync(given.picture, await page.screenshot({ fullPage: true, clip: { x: 0, y: 0, width: size.width, height: Math.ceil(end + 24) } }));
  }
  console.log(JSON.stringify({ ...seen, complaints }));
} finally {
  await browser.close();
}
