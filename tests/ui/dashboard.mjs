// Looks at the dashboard as a person would: opens the one-time link, presses the button, talks to a model,
// stops one, and draws each page light, dark and as narrow as a phone. Fails on a serious accessibility fault, on a report of the
// content security policy, and on any request that leaves this host.
//
//   node dashboard.mjs LOGIN_LINK FOLDER

import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [link, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const views = [
  { name: "light", colorScheme: "light", width: 1280, height: 1100 },
  { name: "dark", colorScheme: "dark", width: 1280, height: 1100 },
  { name: "narrow", colorScheme: "light", width: 390, height: 1500 },
];
const faults = [];

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

/** Draws the open page in every view, and looks for faults in each. */
async function draw(page, what) {
  for (const { name, colorScheme, width, height } of views) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height });
    await page.screenshot({ path: `${folder}/${what}-${name}.png`, fullPage: true });
    await page.evaluate(() => window.scrollTo(0, 0));
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (wide > 0) faults.push(`${what}, ${name}: the page is ${wide} px wider than the window`);
    // Through the debugger, which the page's policy does not concern.
    const { violations } = await page.evaluate(`${axe}; axe.run()`);
    for (const { id, impact, help, nodes } of violations) {
      if (impact === "serious" || impact === "critical") {
        faults.push(`${what}, ${name}: ${impact}: ${id}: ${help}: ${nodes[0]?.html}`);
      }
    }
  }
}

/** Asks the model that is chosen, as a person does: types and presses Enter. */
async function ask(page, words) {
  await page.getByLabel("Your message").fill(words);
  await page.keyboard.press("Enter");
  return page.locator(".entry.answer").last();
}

/** Talks to models: one answers, one is stopped, one sleeps. */
async function talk(page) {
  await page.getByRole("link", { name: "Chat", exact: true }).first().click();
  await page.waitForURL("**/chat");
  await page.locator("#link.on").waitFor();
  await page.getByLabel("Your message").pressSequentially("one");
  await page.keyboard.press("Shift+Enter");
  await page.getByLabel("Your message").pressSequentially("two");
  if ((await page.getByLabel("Your message").inputValue()) !== "one\ntwo") faults.push("Shift-Enter begins no line");

  const first = await ask(page, "Name three things that a backup must be, as a list.");
  const grown = new Set();
  const text = first.locator(".text");
  while (!(await first.evaluate((entry) => /done|failed|stopped/.test(entry.className)))) {
    grown.add((await text.textContent()).length);
    await page.waitForTimeout(50);
  }
  if (!(await first.evaluate((entry) => entry.classList.contains("done")))) {
    faults.push(`no answer: ${await first.textContent()}`);
  }
  if (grown.size < 4) faults.push(`the answer did not stream: it was seen at ${grown.size} lengths`);
  const status = await first.locator(".status").textContent();
  if (!/tokens? · .* a second · .*its job/.test(status)) faults.push(`figures are missing: ${status}`);
  if (!/bronze/.test(await first.textContent())) faults.push("the answer does not name its tier");

  // A model as small as this one may have said all before the key is pressed.
  let stopped = null;
  for (let tries = 0; tries < 5 && !stopped; tries += 1) {
    const answer = await ask(page, "Tell a long story about a lighthouse and its keeper.");
    await answer.locator(".text p").first().waitFor();
    await page.keyboard.press("Escape");
    await page.locator(".entry.answer:is(.stopped, .done)").nth(tries + 1).waitFor();
    if (await answer.evaluate((entry) => entry.classList.contains("stopped"))) stopped = answer;
  }
  if (!stopped) throw new Error("Esc stopped no answer");
  const job = await stopped.getByRole("link", { name: "its job" }).getAttribute("href");

  const running = await ask(page, "Tell another long story, about a ship.");
  await running.locator(".text p").first().waitFor();
  const second = await page.context().newPage();
  await second.goto(new URL("/jobs", page.url()).href);
  await second.locator("#link.on").waitFor();
  await second.screenshot({ path: `${folder}/jobs-running.png`, fullPage: true });
  await page.bringToFront();
  await page.keyboard.press("Escape");
  await running.and(page.locator(".stopped, .done")).waitFor();
  await draw(page, "chat");

  await page.getByLabel(/silver/).check();
  const asleep = await ask(page, "Are you there?");
  await asleep.getByText(/Waiting for silver, place \d+/).waitFor();
  await draw(page, "chat-waits");
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator(".entry.answer.stopped").last().waitFor();

  const harmless = await page.evaluate(async () => {
    const { render } = await import("/assets/markdown.js");
    const box = document.createElement("div");
    box.append(render("<img src=x onerror=alert(1)> `a<b` **c**\n\n- [x](javascript:alert(1))\n```html\n<script>1</script>\n"));
    return [box.querySelectorAll("img, script, a").length, box.querySelector("code")?.textContent,
      box.querySelector("strong")?.textContent, box.querySelector("pre")?.textContent, box.querySelectorAll("li").length];
  });
  const wanted = JSON.stringify([0, "a<b", "c", "<script>1</script>\n", 1]);
  if (JSON.stringify(harmless) !== wanted) faults.push(`Markdown: ${JSON.stringify(harmless)}`);

  await second.goto(new URL(job, page.url()).href);
  await second.getByText("cancelled by user/ada, whose connection ended").first().waitFor();
  await draw(second, "job-stopped");
  await second.close();
}

try {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  const home = new URL(link).origin;
  page.on("request", (request) => {
    if (!request.url().startsWith(home) && !request.url().startsWith("data:")) {
      faults.push(`a request left for ${request.url()}`);
    }
  });
  page.on("console", (message) => {
    if (message.type() === "error") faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`script: ${error.message}`));

  await page.goto(link);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("heading", { level: 1 }).waitFor();
  await page.getByText("hx310-db").first().waitFor();

  await draw(page, "dashboard");
  await page.getByRole("link", { name: "Backups", exact: true }).first().click();
  await page.waitForURL("**/backups");
  await page.locator("#link.on").waitFor();
  await draw(page, "backups");
  await page.locator("#state a.name").first().click();
  await page.waitForURL("**/backups/*");
  await draw(page, "backup");
  await page.getByRole("link", { name: "Jobs", exact: true }).first().click();
  await page.waitForURL("**/jobs");
  await page.locator("#link.on").waitFor();
  await draw(page, "jobs");
  await page.locator("#ended tr.ok a.name").first().click();
  await page.waitForURL("**/jobs/*");
  await draw(page, "job");
  await page.goBack();
  await page.locator("#waiting a.name").first().click();
  await page.waitForURL("**/jobs/*");
  await page.locator("#link.on").waitFor();
  await draw(page, "job-waits");
  await page.getByRole("link", { name: "Workers", exact: true }).first().click();
  await page.waitForURL("**/workers");
  await page.locator("#link.on").waitFor();
  await draw(page, "workers");
  await talk(page);

  const second = await context.request.get(link);
  if (second.ok() && (await second.text()).includes("hx310-db")) faults.push("the link worked twice");
} finally {
  await browser.close();
}
if (faults.length > 0) {
  console.error(faults.join("\n"));
  process.exit(1);
}
console.log(`drawn into ${folder}`);
