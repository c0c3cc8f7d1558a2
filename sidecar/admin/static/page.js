// What the page does beyond what the server rendered: takes in new sections as they come, and copies.
"use strict";
document.documentElement.classList.add("scripted");

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const said = document.getElementById("said");
  navigator.clipboard.writeText(button.dataset.text).then(
    () => { said.textContent = "copied " + button.dataset.text; },
    () => { said.textContent = "the browser does not let this page copy"; },
  );
});

const feed = new EventSource("/events");
const state = document.getElementById("feed");
feed.addEventListener("section", (event) => {
  const { id, html } = JSON.parse(event.data);
  const section = document.getElementById(id);
  // A section that someone is in with the keyboard waits until they have left it.
  if (section && !section.contains(document.activeElement)) section.innerHTML = html;
});
feed.addEventListener("open", () => { state.textContent = "updates itself"; });
feed.addEventListener("error", () => { state.textContent = "not connected: what you see is old"; });
