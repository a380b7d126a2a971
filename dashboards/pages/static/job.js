// The job page: rows that open below their trial.
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
