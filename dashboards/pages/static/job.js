// The job page: rows that open below their trial, and charts that follow a running job.
"use strict";

// data-opens: a button that shows the row below its own, and hides it again.
document.addEventListener("htmx:beforeRequest", (event) => {
  const button = event.target.closest("button[data-opens]");
  if (!button) return;
  const row = document.getElementById(button.dataset.opens).closest("tr");
  const opens = row.hidden;
  row.hidden = !opens;
  button.setAttribute("aria-expanded", String(opens));
  if (!opens) event.preventDefault();
});

// The first charts follow a running job, but not more often than people can read them.
const REFRESH_MS = 10_000;
let refreshed = Date.now();
document.addEventListener("htmx:sseMessage", () => {
  if (Date.now() - refreshed < REFRESH_MS) return;
  refreshed = Date.now();
  document.getElementById("job").dispatchEvent(new CustomEvent("chart:refresh", { bubbles: true }));
});
