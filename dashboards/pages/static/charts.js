// Draws the figure that data-src names in each .chart, with the plotly.js that data-plotly of this script names.
"use strict";

(() => {
  const address = document.currentScript.dataset.plotly;

  async function draw(place) {
    const figure = await (await fetch(place.dataset.src)).json();
    const style = getComputedStyle(document.body);
    const looks = { paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: style.color } };
    await Plotly.newPlot(place, figure.data, { ...figure.layout, ...looks }, { responsive: true, displaylogo: false });
  }

  const places = document.querySelectorAll(".chart[data-src]");
  if (!places.length) return;
  const script = document.createElement("script");
  script.src = address;
  script.onload = () => places.forEach(draw);
  document.head.append(script);
})();
