// Opens a page in headless Chromium, does what steps say, and prints what each found as JSON.
//
// node browser.mjs CHROMIUM PROFILE_FOLDER URL < steps.json
//
// | step                                  | does | finds |
// |---------------------------------------|------|-------|
// | {"choose": selector, "files": [path]} | sets a file input, as a user does | |
// | {"drop": [path]}                      | drops files on the page           | |
// | {"until": expression}                 | waits until it is true            | its value |
// | {"size": [width, height], "dark": b}  | sets the window                   | |
// | {"shot": path}                        | writes a PNG                      | |
//
// Chromium is spoken to over two pipes: no port, and it ends when this process does.

import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const LIMIT_MS = 60_000, CLOSE_MS = 5_000;
const [chromium, profile, url] = process.argv.slice(2);
const steps = JSON.parse(readFileSync(0, "utf8"));
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
flags.push("--remote-debugging-pipe", "--disable-background-networking", "--disable-component-update", "--disable-sync");
const browser = spawn(chromium, [...flags, `--user-data-dir=${profile}`, "about:blank"], {
  stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
  env: { ...process.env, HOME: profile, XDG_CONFIG_HOME: profile, XDG_CACHE_HOME: profile },
  detached: true, // a group of its own, so that all of it can be ended
});
const ended = new Promise((resolve) => browser.once("exit", resolve));
const [, , , into, from] = browser.stdio;
const waiting = new Map(), problems = [];
let number = 0, unread = "";

into.on("error", () => {}); // it has gone: the exit says so
from.setEncoding("utf8").on("data", (text) => {
  const messages = (unread + text).split("\0");
  unread = messages.pop();
  messages.map((message) => JSON.parse(message)).forEach(receive);
});
browser.once("exit", (code) => waiting.forEach(({ reject }) => reject(new Error(`chromium ended with ${code}`))));
browser.once("error", (error) => waiting.forEach(({ reject }) => reject(error)));

function receive({ id, result, error, method, params }) {
  if (method === "Runtime.exceptionThrown") problems.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
  if (!waiting.has(id)) return;
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error.message));
  else resolve(result);
}

function send(method, params = {}, sessionId = undefined) {
  number += 1;
  const answer = new Promise((resolve, reject) => waiting.set(number, { resolve, reject }));
  into.write(`${JSON.stringify({ id: number, method, params, sessionId })}\0`);
  return answer;
}

async function openPage() {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => send(method, params, sessionId);
  await page("Runtime.enable");
  await page("Page.enable");
  await page("Page.navigate", { url });
  return page;
}

async function evaluate(page, expression) {
  const { result, exceptionDetails } = await page("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

async function until(page, expression) {
  for (const end = Date.now() + LIMIT_MS; Date.now() < end; ) {
    const value = await evaluate(page, expression).catch(() => null); // null: the page is being replaced
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const text = await evaluate(page, "document.body.innerText");
  throw new Error(`still not true: ${expression}; the page says: ${text}; ${problems.join("; ")}`);
}

async function act(page, step) {
  if (step.choose) {
    const { root } = await page("DOM.getDocument");
    const { nodeId } = await page("DOM.querySelector", { nodeId: root.nodeId, selector: step.choose });
    await page("DOM.setFileInputFiles", { nodeId, files: step.files });
  } else if (step.drop) {
    const data = { items: [], files: step.drop, dragOperationsMask: 1 };
    for (const type of ["dragEnter", "dragOver", "drop"]) await page("Input.dispatchDragEvent", { type, x: 50, y: 50, data });
  } else if (step.until) {
    return until(page, step.until);
  } else if (step.size) {
    const [width, height] = step.size;
    await page("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    const features = [{ name: "prefers-color-scheme", value: step.dark ? "dark" : "light" }];
    await page("Emulation.setEmulatedMedia", { features });
  } else if (step.shot) {
    const { data } = await page("Page.captureScreenshot", { format: "png" });
    writeFileSync(step.shot, Buffer.from(data, "base64"));
  }
  return null;
}

try {
  const page = await openPage();
  const found = [];
  for (const step of steps) found.push(await act(page, step));
  process.stdout.write(JSON.stringify({ found, problems }));
  await send("Browser.close");
  await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, CLOSE_MS).unref())]);
} catch (error) {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
} finally {
  try {
    process.kill(-browser.pid, "SIGKILL");
  } catch {
    // it has gone
  }
  await ended;
}
