// Draws the figure that data-src names in each .chart, once it comes into view.
"use strict";

(() => {
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "200px" });

  async function draw(place) {
    const figure = await (await fetch(place.dataset.src)).json();
    delete figure.layout.title;
    figure.layout.paper_bgcolor = figure.layout.plot_bgcolor = "rgba(0,0,0,0)";
    await Plotly.newPlot(place, figure.data, figure.layout, { responsive: true, displaylogo: false });
  }

  function watch(part) {
    for (const place of part.querySelectorAll(".chart[data-src]")) seen.observe(place);
  }

  document.addEventListener("DOMContentLoaded", () => watch(document));
  document.addEventListener("htmx:load", (event) => watch(event.detail.elt));
})();
