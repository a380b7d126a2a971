// Draws the figures of a report file or of a notebook's output: <div class="chart"> with a script element that holds
// its JSON. plotly.js is packed in an element of the page, or was loaded by an earlier output of the notebook.
"use strict";
(() => {
  const PRINT_WIDTH = 660;
  const CONFIG = { displaylogo: false, responsive: true };

  async function unpack(element) {
    const bytes = Uint8Array.from(atob(element.textContent.trim()), (sign) => sign.charCodeAt(0));
    const unzipped = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unzipped).text();
    document.head.append(script);
  }

  function loaded() {
    if (window.Plotly) return Promise.resolve();
    const packed = document.querySelector("script.anon-tune-plotly");
    if (!packed) return Promise.reject(new Error("an output with plotly.js comes first; run the notebook from its top"));
    window.anonTunePlotly ??= unpack(packed);
    return window.anonTunePlotly;
  }

  // The ground is the page's or the notebook's own, so its text tells whether it is dark.
  function isDark(place) {
    const [red, green, blue] = getComputedStyle(place).color.match(/[\d.]+/g).map(Number);
    return red + green + blue > 382;
  }

  const drawn = [];

  function draw(place) {
    const { data, layout, themes } = JSON.parse(place.querySelector("script").textContent);
    const template = () => (isDark(place) ? themes.dark : themes.light);
    place.replaceChildren();
    const [menu] = layout.updatemenus ?? [];
    const margin = menu ? { ...layout.margin, t: 24 } : layout.margin;
    Plotly.newPlot(place, data, { ...layout, margin, template: template(), updatemenus: [] }, CONFIG);
    if (menu) addButtons(place, menu);
    drawn.push({ place, themes, template });
  }

  // The keyboard does not reach Plotly's own buttons, and they are white in the dark.
  function addButtons(place, menu) {
    const group = document.createElement("div");
    group.className = "actions";
    const buttons = menu.buttons.map(({ label, args }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", () => {
        buttons.forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
        Plotly.update(place, ...structuredClone(args));
      });
      return button;
    });
    group.append(...buttons);
    place.before(group);
    buttons[menu.active ?? 0].click();
  }

  function fail(place, error) {
    const said = document.createElement("p");
    said.textContent = `The picture could not be drawn: ${error.message}.`;
    place.replaceChildren(said);
  }

  for (const place of document.querySelectorAll(".anon-tune .chart:not([data-drawn])")) {
    place.dataset.drawn = "";
    loaded().then(() => draw(place)).catch((error) => fail(place, error));
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => drawn.forEach(({ place, template }) => Plotly.relayout(place, { template: template() })));
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll(".anon-tune details.printed").forEach((each) => { each.open = true; });
    drawn.forEach(({ place, themes }) => Plotly.relayout(place, { template: themes.light, width: PRINT_WIDTH }));
  });
  window.addEventListener("afterprint", () => {
    drawn.forEach(({ place, template }) => Plotly.relayout(place, { template: template(), width: null, autosize: true }));
  });
})();
