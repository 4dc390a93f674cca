// Looks at the dashboard as a person would: opens the one-time link, presses the button, and draws each
// page light, dark and as narrow as a phone. Fails on a serious accessibility fault, on a report of the
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
  await page.locator("#ended a.name").first().click();
  await page.waitForURL("**/jobs/*");
  await draw(page, "job");
  await page.getByRole("link", { name: "Workers", exact: true }).first().click();
  await page.waitForURL("**/workers");
  await page.locator("#link.on").waitFor();
  await draw(page, "workers");

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
