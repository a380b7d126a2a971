// Charts: draws each <div class="chart"> when it scrolls into view, in the colours of the page.
//
//   data-src     address of a figure as JSON (`figure_json` of dashboards/charts), or
//   data-figure  id of a script element that holds it;
//   data-title   what it shows, for people who cannot see it.
//
// plotly.js is loaded with the first chart, from the `data-plotly` of this script's element. The event "chart:refresh"
// on the document or on a part of it loads the charts in it anew; zoom and choices stay.
"use strict";
(() => {
  const plotlyAddress = document.currentScript.dataset.plotly;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  };
  const figures = new Map(); // By place: its figure, once drawn.
  let printing = false;
  let plotly = null;

  function loadPlotly() {
    plotly ??= window.Plotly ? Promise.resolve() : new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = plotlyAddress;
      script.onload = resolve;
      script.onerror = () => reject(new Error("plotly.js could not be loaded"));
      document.head.append(script);
    });
    return plotly;
  }

  function template(figure) {
    return figure.themes[dark.matches && !printing ? "dark" : "light"];
  }

  async function read(place) {
    if (place.dataset.figure) return JSON.parse(document.getElementById(place.dataset.figure).textContent);
    const answer = await fetch(place.dataset.src, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
    return answer.json();
  }

  // Plotly's own buttons are out of the keyboard's reach, so HTML buttons take their place.
  function addButtons(place, menu) {
    const group = document.createElement("div");
    group.className = "actions chart-buttons";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `${place.dataset.title ?? "Chart"}: what is drawn`);
    menu.buttons.forEach((each, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = each.label;
      button.addEventListener("click", () => choose(place, index));
      group.append(button);
    });
    place.before(group);
    return group;
  }

  function choose(place, index) {
    const seen = figures.get(place);
    seen.choice = index;
    [...seen.group.children].forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
    const [traces, layout] = seen.menu.buttons[index].args;
    Plotly.update(place, structuredClone(traces), structuredClone(layout));
  }

  function show(place, figure) {
    const before = figures.get(place);
    const [menu] = figure.layout.updatemenus ?? [];
    const layout = {
      ...figure.layout,
      template: template(figure),
      uirevision: "keep",
      dragmode: touch.matches ? false : "zoom",
      updatemenus: [],
    };
    if (menu) layout.margin = { ...layout.margin, t: layout.margin.t - 40 };
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", place.dataset.title ?? "Chart");
    place.removeAttribute("aria-busy");
    place.style.minHeight = `${layout.height}px`;
    if (!before) place.replaceChildren();
    Plotly.react(place, figure.data, layout, config);
    const group = before?.group ?? (menu ? addButtons(place, menu) : null);
    figures.set(place, { figure, menu, group, choice: before?.choice ?? 0 });
    if (menu) choose(place, Math.min(before?.choice ?? 0, menu.buttons.length - 1));
  }

  function fail(place, error) {
    if (figures.has(place)) return; // What is drawn stays.
    const said = document.createElement("p");
    said.className = "problem";
    said.textContent = `This chart could not be drawn (${error.message}). Reload the page to try again.`;
    place.replaceChildren(said);
    place.removeAttribute("aria-busy");
  }

  async function draw(place) {
    place.setAttribute("aria-busy", "true");
    try {
      const [figure] = await Promise.all([read(place), loadPlotly()]);
      if (place.isConnected) show(place, figure);
    } catch (error) {
      fail(place, error);
    }
  }

  const stale = new WeakSet();
  const inView = new WeakSet();
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) {
        inView.delete(target);
        continue;
      }
      inView.add(target);
      if (figures.has(target) && !stale.has(target)) continue;
      stale.delete(target);
      draw(target);
    }
  }, { rootMargin: "200px" });

  const places = (root) => [...(root.matches?.(".chart") ? [root] : []), ...root.querySelectorAll(".chart")];
  const watched = new WeakSet();

  function watch(root) {
    for (const place of places(root)) {
      if (!(place.dataset.src || place.dataset.figure) || watched.has(place)) continue;
      watched.add(place);
      observer.observe(place);
    }
  }

  function forget() {
    for (const place of figures.keys()) {
      if (place.isConnected) continue;
      Plotly.purge(place);
      figures.delete(place);
      observer.unobserve(place);
    }
  }

  function refresh(root) {
    for (const place of places(root)) {
      if (!watched.has(place)) continue;
      if (inView.has(place)) draw(place);
      else stale.add(place);
    }
  }

  function recolour() {
    for (const [place, { figure }] of figures) Plotly.relayout(place, { template: template(figure) });
  }

  dark.addEventListener("change", recolour);
  window.addEventListener("beforeprint", () => {
    printing = true;
    recolour();
    if (!window.Plotly) return;
    for (const place of places(document)) {
      if (place.dataset.figure && !figures.has(place)) {
        show(place, JSON.parse(document.getElementById(place.dataset.figure).textContent));
      }
    }
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    recolour();
  });
  document.addEventListener("chart:refresh", (event) => refresh(event.target));
  document.addEventListener("htmx:load", (event) => { // A part of the page was exchanged.
    forget();
    watch(event.target);
  });
  watch(document);
})();
