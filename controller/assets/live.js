// Keeps a page alive: one stream of rendered sections, and ages that count by themselves.
//
// The page is complete without this file. Each event is {seq, kind, html}; `seq` counts without
// gaps over all events, so that a gap is seen and the whole page is fetched again.

const link = document.getElementById("link");
const main = document.getElementById("main");
let seq = Number(link.dataset.seq);
let fetching = false;

function say(state, text) {
  link.className = `link ${state}`;
  link.querySelector(".text").textContent = text;
}

/** Puts the section `html` where the one with the id `kind` stands; what it says is markup made
    and escaped by the controller. */
function replace(kind, html) {
  const old = document.getElementById(kind);
  const parsed = new DOMParser().parseFromString(html, "text/html").getElementById(kind);
  if (!old || !parsed) return;
  const focused = old.contains(document.activeElement);
  old.replaceWith(parsed);
  if (focused) parsed.querySelector("[tabindex]")?.focus({ preventScroll: true });
}

/** Fetches the whole page and takes over its sections: after a gap, and after each reconnect. Says
    whether that went well. */
async function resync() {
  if (fetching) return true;
  fetching = true;
  try {
    const answer = await fetch(location.pathname, { headers: { accept: "text/html" }, redirect: "error" });
    if (answer.status === 401) return location.reload();
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (main.dataset.every) renew(page.getElementById("main"));
    for (const section of page.querySelectorAll("main > section[id]")) {
      document.getElementById(section.id)?.replaceWith(section);
    }
    seq = Number(page.getElementById("link").dataset.seq);
    count();
    return true;
  } catch {
    if (!main.dataset.every) setTimeout(resync, 3000);
    return false;
  } finally {
    fetching = false;
  }
}

/** Takes over a whole page that is looked for again, unless somebody is just selecting text in it. */
function renew(fresh) {
  if (!fresh || !document.getSelection().isCollapsed) return;
  const stops = () => [...main.querySelectorAll("a, button, [tabindex]")];
  const focused = stops().indexOf(document.activeElement);
  if (fresh.dataset.every) main.dataset.every = fresh.dataset.every;
  else delete main.dataset.every;
  main.replaceChildren(...fresh.childNodes);
  if (focused >= 0) stops()[focused]?.focus({ preventScroll: true });
}

/** Looks for a newer page until it says that nothing will change any more. */
async function look() {
  const isFresh = await resync();
  if (!main.dataset.every) return say("", "it has ended");
  document.body.classList.toggle("offline", !isFresh);
  if (isFresh) say("on", "live");
  else say("off", "reconnecting: what you see is as old as it says");
  setTimeout(look, Number(main.dataset.every));
}

function connect() {
  const events = new EventSource(link.dataset.events);
  events.onmessage = (message) => {
    const event = JSON.parse(message.data);
    document.body.classList.remove("offline");
    say("on", "live");
    if (event.kind === "hello") {
      if (event.seq !== seq) resync();
    } else if (event.seq === seq + 1) {
      seq = event.seq;
      replace(event.kind, event.html);
      count();
    } else if (event.seq > seq) {
      resync();
    }
  };
  events.onerror = () => {
    document.body.classList.add("offline");
    say("off", "reconnecting: what you see is as old as it says");
    if (events.readyState === EventSource.CLOSED) {
      setTimeout(() => { resync(); connect(); }, 3000);
    }
  };
}

function words(seconds) {
  if (seconds < 1) return "now";
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** Writes every age anew and greys rows whose data has become old. */
function count() {
  const now = Date.now();
  for (const time of document.querySelectorAll("time")) {
    const seconds = Math.round((now - Date.parse(time.dateTime)) / 1000);
    const text = words(Math.abs(seconds));
    if (!time.title) time.title = new Date(time.dateTime).toLocaleString();
    if (time.dataset.form === "span") time.textContent = text;
    else if (text === "now") time.textContent = "now";
    else time.textContent = seconds >= 0 ? `${text} ago` : `in ${text}`;
    if (time.dataset.stale) {
      time.closest("tr")?.classList.toggle("stale", seconds > Number(time.dataset.stale));
    }
  }
}

document.addEventListener("click", async (click) => {
  const command = click.target.closest(".command");
  if (!command || !navigator.clipboard) return;
  await navigator.clipboard.writeText(command.textContent.trim());
  command.classList.add("copied");
  setTimeout(() => command.classList.remove("copied"), 1200);
});
document.addEventListener("keydown", (key) => {
  if (key.key === "Enter" && key.target.matches?.(".command")) key.target.click();
});

setInterval(count, 1000);
count();
if (link.dataset.events) connect();
else if (main.dataset.every) look();
