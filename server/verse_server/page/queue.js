// Queue: how fast the server is, what runs and waits, and the batches under way.

import { bytes, counted, el, svg } from "./dom.js";

const MAX_POINTS = 60;
const WIDTH = 600;
const HEIGHT = 80;
const NUMBERS = [
  ["speed", "Tokens per second"],
  ["running", "Poems being written"],
  ["waiting", "Requests waiting"],
  ["adapters", "Adapters in memory"],
  ["memory", "Memory of the model"],
];

export class Queue {
  constructor(panel, api) {
    this._api = api;
    this._last = null; // { tokens, time }
    this._points = [];
    this._values = Object.fromEntries(NUMBERS.map(([name]) => [name, el("dd", {}, "–")]));
    this._line = svg("polyline", { class: "line", points: "" });
    this._batches = el("div", {});
    panel.replaceChildren(
      el("dl", { class: "numbers" }, ...NUMBERS.map(([name, label]) => el("div", {}, el("dt", {}, label), this._values[name]))),
      svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": "Tokens per second over the last two minutes" }, this._line),
      this._batches);
  }

  /** Ask once; the page calls it again while the tab is in view. */
  async show() {
    const found = gauges(await this._api.text("/metrics"));
    const now = performance.now(), tokens = found.get("verse_completion_tokens_total") ?? 0;
    if (this._last !== null) {
      const speed = Math.max(0, (1000 * (tokens - this._last.tokens)) / (now - this._last.time));
      this._values.speed.textContent = speed.toFixed(speed < 10 ? 1 : 0);
      this._draw(speed);
    }
    this._last = { tokens, time: now };
    this._values.running.textContent = found.get("verse_rows_running") ?? "–";
    this._values.waiting.textContent = found.get("verse_requests_waiting") ?? "–";
    this._values.adapters.textContent = found.get("verse_adapters_resident") ?? "–";
    this._values.memory.textContent = bytes(found.get("verse_memory_bytes") ?? 0);
    await this._showBatches();
  }

  _draw(speed) {
    this._points = [...this._points, speed].slice(-MAX_POINTS);
    const most = Math.max(...this._points, 1);
    const x = (index) => (WIDTH * (MAX_POINTS - this._points.length + index)) / (MAX_POINTS - 1);
    const y = (value) => HEIGHT - 2 - ((HEIGHT - 4) * value) / most;
    this._line.setAttribute("points", this._points.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" "));
  }

  /** A server without batches has no such endpoint. */
  async _showBatches() {
    if (this._hasBatches === false) return;
    let batches;
    try {
      batches = (await this._api.json("/v1/batches?limit=20")).data;
    } catch (error) {
      if (error.status === 404) this._hasBatches = false;
      else throw error;
      return;
    }
    const rows = batches.map(({ id, status, request_counts: counts }) => el("tr", {},
      el("th", { scope: "row" }, id), el("td", {}, status.replaceAll("_", " ")),
      el("td", {}, `${counts?.completed ?? 0} of ${counts?.total ?? 0}`), el("td", {}, String(counts?.failed ?? 0))));
    const head = ["Batch", "State", "Done", "Failed"].map((name) => el("th", { scope: "col" }, name));
    this._batches.replaceChildren(el("h2", {}, counted(batches.length, "batch").replace("batchs", "batches")),
      ...(rows.length ? [el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)))] : []));
  }
}

/** The numbers without labels in Prometheus' text format. */
function gauges(text) {
  return new Map(text.split("\n").filter((line) => /^\w+ /.test(line)).map((line) => {
    const [name, value] = line.split(" ");
    return [name, Number(value)];
  }));
}
