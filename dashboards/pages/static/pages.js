// Small helps for all pages; each of them works on what htmx adds later, too.
"use strict";

(() => {
  const messages = () => document.getElementById("messages");

  function say(text) {
    const line = document.createElement("p");
    line.className = "problem passing";
    line.textContent = text;
    messages()?.replaceChildren(line);
  }

  // Times are sent in UTC, and shown as the reader's clock has them.
  const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  function localTimes(part) {
    for (const time of part.querySelectorAll("time[datetime]")) {
      const shown = clock.format(new Date(time.dateTime));
      if (time.classList.contains("age")) time.title = shown;
      else time.textContent = shown;
    }
  }

  // .copy: a button that copies the text beside it. The clipboard is only there over HTTPS and on loopback.
  async function copy(button) {
    const source = button.closest(".copy").querySelector("pre, code, textarea");
    const text = "value" in source ? source.value : source.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".copy > button, [data-close]");
    if (!button) return;
    if (button.matches("[data-close]")) button.closest(button.dataset.close).remove();
    else copy(button);
  });

  // data-join="name" on a form: its ticked boxes are sent as one value, name=a,b. Its button waits for data-least ticks.
  const ticked = (form) => [...form.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.value);
  function countTicks(form) {
    const button = form.querySelector("[data-least]");
    button.disabled = ticked(form).length < Number(button.dataset.least);
  }
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-join]");
    if (form) countTicks(form);
  });
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-join]");
    if (!form) return;
    event.preventDefault();
    location.assign(`${form.getAttribute("action")}?${form.dataset.join}=${ticked(form).map(encodeURIComponent).join(",")}`);
  });

  // data-confirm on a form or button: asks before it is sent. (htmx has hx-confirm.)
  document.addEventListener("submit", (event) => {
    const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") messages()?.replaceChildren();
  });

  document.addEventListener("htmx:load", (event) => localTimes(event.detail.elt));
  document.addEventListener("htmx:sendError", () => {
    say("The service does not answer. Check that it runs; this page goes on by itself once it does.");
  });
  // .passing: a problem of the service's, not of a request; it is over with the next answer.
  const isAnswered = () => messages()?.querySelector(".passing")?.remove();
  document.addEventListener("htmx:sseOpen", isAnswered);
  document.addEventListener("htmx:afterRequest", (event) => { // Its `successful` holds for all that is swapped.
    const { status } = event.detail.xhr;
    if (status >= 200 && status < 400) isAnswered();
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.requestConfig.verb !== "get") messages()?.replaceChildren();
  });
})();
