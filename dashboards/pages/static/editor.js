// Line numbers beside the text areas of .editor, which scroll with the text.
"use strict";

(() => {
  const areas = () => document.querySelectorAll(".editor textarea");

  function number(area) {
    const lines = area.closest(".editor").querySelector(".lines");
    const count = area.value.split("\n").length;
    if (lines.childElementCount !== count) {
      lines.replaceChildren(...Array.from({ length: count }, (_, index) => {
        const line = document.createElement("div");
        line.textContent = index + 1;
        return line;
      }));
    }
    lines.scrollTop = area.scrollTop;
  }

  document.addEventListener("input", (event) => {
    if (event.target.matches(".editor textarea")) number(event.target);
  });
  document.addEventListener("scroll", (event) => {
    if (event.target instanceof Element && event.target.matches(".editor textarea")) number(event.target);
  }, true);
  document.addEventListener("htmx:afterSettle", () => areas().forEach(number));
  areas().forEach(number);
})();
