// What the page does beyond what the server rendered: takes in new sections as they come, filters, and copies.
"use strict";
document.documentElement.classList.add("scripted");
const table = document.querySelector("#routes table");

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const said = document.getElementById("said");
  navigator.clipboard.writeText(button.dataset.text).then(
    () => { said.textContent = "copied " + button.dataset.text; },
    () => { said.textContent = "the browser does not let this page copy"; },
  );
});

const filter = document.getElementById("filter");
function sift() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const body of table.tBodies) {
    const text = body.textContent.toLowerCase();
    body.hidden = !words.every((word) => text.includes(word));
    shown += body.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = words.length ? `${shown} of ${table.tBodies.length}` : "";
}
filter.addEventListener("input", sift);

// What waits because someone is in it with the keyboard, by id. Opened details stay open.
const waiting = new Map();
function take(id, html) {
  const element = id === "order" ? table : document.getElementById(id);
  if (!element) return;
  const focused = document.activeElement;
  if (element.contains(focused) && focused !== element) { waiting.set(id, html); return; }
  if (id === "order") {
    const ids = html.split(" ").filter(Boolean);
    for (const body of [...table.tBodies]) if (!ids.includes(body.id)) body.remove();
    for (const name of ids) {
      const body = document.getElementById(name) || document.createElement("tbody");
      body.id = name;
      table.append(body);
    }
    return;
  }
  const open = element.querySelector("details[open]") !== null;
  element.innerHTML = html;
  if (open) element.querySelector("details").open = true;
}
document.addEventListener("focusout", () => setTimeout(() => {
  const late = [...waiting];
  waiting.clear();
  for (const [id, html] of late) take(id, html);
  if (late.length) sift();
}));

// An update is many sections: they are filtered once, when all are there.
let sifting = false;
const feed = new EventSource("/events");
const state = document.getElementById("feed");
feed.addEventListener("section", (event) => {
  const { id, html } = JSON.parse(event.data);
  take(id, html);
  if (sifting || !filter.value) return;
  sifting = true;
  requestAnimationFrame(() => { sifting = false; sift(); });
});
feed.addEventListener("open", () => { state.textContent = "updates itself"; });
feed.addEventListener("error", () => { state.textContent = "not connected: what you see is old"; });
