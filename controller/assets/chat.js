// A conversation with a model: it lives in this page, and each question is a job of the controller.

import { render } from "/assets/markdown.js";

const main = document.getElementById("main");
const log = document.getElementById("log");
const form = document.getElementById("ask");
const words = document.getElementById("words");
const stop = document.getElementById("stop");
const send = document.getElementById("send");
const anew = document.getElementById("anew");
const silent = document.getElementById("private");

/** Text that is drawn anew with each piece; longer answers are drawn when they are complete. */
const DRAWN_MAX = 40_000;

let said = [];
let chat = crypto.randomUUID();
let asking = null;
let chosen = document.querySelector('input[name="model"]:checked')?.value;

function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function model() {
  const all = [...document.querySelectorAll('input[name="model"]')];
  return all.find((input) => input.value === chosen) ?? all[0];
}

/** The section of the models is replaced whenever one changes; the choice stays. */
function choose() {
  const input = model();
  if (input && !input.checked) input.checked = true;
}

/** Keeps the end in view for who is there already. */
function follow(change) {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function entry(kind, who) {
  const made = element("article", `entry ${kind}`);
  made.append(element("h3", "", who));
  const text = element("div", "text");
  made.append(text);
  follow(() => log.append(made));
  log.scrollTop = log.scrollHeight;
  return { made, text };
}

/** One answer while it comes. */
class Answer {
  constructor(name, tier) {
    const { made, text } = entry("answer", name);
    this.made = made;
    this.text = text;
    this.head = made.firstChild;
    this.head.append(element("span", "muted", ` · ${tier}`));
    this.status = element("p", "status muted", "Sending…");
    this.status.setAttribute("role", "status");
    made.append(this.status);
    this.content = "";
    this.thinking = "";
    this.began = performance.now();
    this.first = null;
    this.usage = null;
    this.rate = null;
    this.waiting = "";
    this.drawing = false;
    this.clock = setInterval(() => this.tick(), 1000);
  }

  tick() {
    const seconds = Math.round((performance.now() - this.began) / 1000);
    if (this.first === null) this.tell(`${this.waiting || "Waiting for the first word"} · ${seconds} s so far`);
  }

  tell(text) {
    if (this.status.textContent !== text) this.status.textContent = text;
  }

  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message ?? "It failed without saying why.");
    if (chunk.event?.type === "status") {
      this.waiting = chunk.event.data.done ? "" : chunk.event.data.description;
      if (this.first === null) this.tell(chunk.event.data.description);
      return;
    }
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.timings?.predicted_per_second) this.rate = chunk.timings.predicted_per_second;
    const delta = chunk.choices?.[0]?.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    if (!delta.content && !thought) return;
    if (this.first === null) {
      this.first = performance.now();
      this.tell("Writing…");
    }
    this.content += delta.content ?? "";
    this.thinking += thought;
    this.draw();
  }

  draw() {
    if (this.drawing || this.content.length > DRAWN_MAX) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.show();
    });
  }

  show() {
    follow(() => {
      const nodes = [];
      if (this.thinking) {
        const details = element("details");
        details.open = this.text.querySelector("details")?.open ?? false;
        details.append(element("summary", "muted", "Thoughts"), element("p", "muted", this.thinking));
        nodes.push(details);
      }
      this.text.replaceChildren(...nodes, render(this.content));
    });
  }

  /** Tokens, rate, time, and the job. */
  figures() {
    const now = performance.now();
    const parts = [];
    const tokens = this.usage?.completion_tokens;
    if (tokens !== undefined) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
    const rate = this.rate ?? (this.first && tokens > 1 ? ((tokens - 1) * 1000) / (now - this.first) : null);
    if (rate) parts.push(`${rate.toFixed(1)} a second`);
    if (this.first) parts.push(`first word after ${((this.first - this.began) / 1000).toFixed(1)} s`);
    return parts;
  }

  end(outcome, kind) {
    clearInterval(this.clock);
    this.show();
    this.made.classList.add(kind);
    const parts = outcome ? [outcome, ...this.figures()] : this.figures();
    this.tell(parts.join(" · "));
    if (this.job) {
      const link = element("a", "", "its job");
      link.href = `/jobs/${this.job}`;
      this.status.append(parts.length > 0 ? " · " : "", link);
    }
  }
}

/** The events of a stream, one after the other. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const lines = event.split("\n").filter((line) => line.startsWith("data: "));
      if (lines.length > 0) yield lines.map((line) => line.slice(6)).join("\n");
    }
  }
}

async function ask(text) {
  const input = model();
  if (!input) return;
  document.getElementById("nothing")?.remove();
  const question = entry("question", "You");
  question.text.textContent = text;
  said.push({ role: "user", content: text });
  const answer = new Answer(input.value, input.dataset.tier);
  const control = new AbortController();
  asking = control;
  busy(true);
  try {
    const response = await fetch("/chat/say", {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "x-homelab-csrf": form.dataset.csrf,
        "x-homelab-record": silent.checked ? "metadata" : "full",
        "x-lab-chat": chat,
      },
      body: JSON.stringify({
        model: input.value,
        messages: said,
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal: control.signal,
    });
    answer.job = response.headers.get("x-homelab-job");
    if (!response.ok) {
      const body = await response.json().catch(() => ({}));
      throw new Error(body.error?.message ?? `The controller answered ${response.status}.`);
    }
    let isComplete = false;
    for await (const data of events(response.body)) {
      if (data === "[DONE]") isComplete = true;
      else answer.take(JSON.parse(data));
    }
    if (!isComplete) throw new Error("The connection broke before the answer was complete.");
    answer.end("", "done");
  } catch (error) {
    if (control.signal.aborted) answer.end("Stopped; the engine is free for others", "stopped");
    else answer.end(error.message, "failed");
  } finally {
    if (answer.content) said.push({ role: "assistant", content: answer.content });
    else said.pop();
    asking = null;
    busy(false);
  }
}

function busy(is) {
  log.setAttribute("aria-busy", String(is));
  send.disabled = is;
  stop.hidden = !is;
  anew.hidden = is || said.length === 0;
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = words.value.trim();
  if (asking || text === "") return;
  words.value = "";
  ask(text);
});
words?.addEventListener("keydown", (key) => {
  if (key.key !== "Enter" || key.shiftKey || key.isComposing) return;
  key.preventDefault();
  form.requestSubmit();
});
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape") asking?.abort();
});
stop?.addEventListener("click", () => {
  asking?.abort();
  words.focus();
});
anew?.addEventListener("click", () => {
  said = [];
  chat = crypto.randomUUID();
  log.replaceChildren(element("p", "muted", "Nothing has been said yet."));
  log.firstChild.id = "nothing";
  anew.hidden = true;
  words.focus();
});
main.addEventListener("change", (event) => {
  if (event.target.name === "model") chosen = event.target.value;
});

new MutationObserver(choose).observe(main, { childList: true });
choose();
chosen = model()?.value;
if (form) {
  form.hidden = false;
  words.focus();
}
