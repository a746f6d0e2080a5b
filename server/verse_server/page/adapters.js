// Adapters: what is there, what is in memory, what is refused and why, and what one changes.

import { bytes, counted, el, facts, field } from "./dom.js";

const STATES = { resident: "in memory", on_disk: "on disk", unloaded: "unloaded", refused: "refused" };

export class Adapters {
  constructor(panel, api, say) {
    this._api = api;
    this._say = say;
    this._theme = el("input", { value: "河", maxlength: 2000 });
    this._summary = el("p", {});
    this._list = el("ul", { class: "cards" });
    panel.replaceChildren(
      el("div", { class: "form" }, field("Theme to probe on", this._theme),
        el("div", { class: "buttons" }, el("button", { type: "button", onclick: () => this.show() }, "Look again"))),
      this._summary, this._list);
  }

  /** Ask what there is now. */
  async show() {
    const { data, num_slots: slots } = await this._api.json("/v1/adapters");
    const resident = data.filter((adapter) => adapter.state === "resident").length;
    this._summary.textContent = `${counted(data.length, "adapter")}, ${resident} in memory; there is room for ${slots}.`;
    this._list.replaceChildren(...data.map((adapter) => this._card(adapter)));
  }

  _card(adapter) {
    const card = el("li", { class: "card" });
    this._fill(card, adapter);
    return card;
  }

  _fill(card, adapter) {
    const { id, state, report, error, unmatched, resident } = adapter;
    const probed = el("div", { class: "probed", role: "status" });
    const act = (label, work, disabled = false) =>
      el("button", { type: "button", disabled, "aria-label": `${label} ${id}`, onclick: (event) => this._act(event.target, work) }, label);
    const change = (verb) => async () => {
      const changed = await this._api.post(`/v1/${verb}_lora_adapter`, { lora_name: id });
      this._fill(card, changed);
      this._say(`${id} is ${STATES[changed.state]}.`);
    };
    card.replaceChildren(
      el("h2", {}, id),
      el("p", { class: `state ${state}` }, STATES[state] ?? state),
      error === null ? "" : el("p", { class: "problem" }, error),
      unmatched.length ? el("p", {}, `It names ${counted(unmatched.length, "module")} that the base does not have: ${unmatched.slice(0, 5).join(", ")}.`) : "",
      report === null ? "" : reported(report),
      resident.length ? el("p", {}, resident.map((one) => `${one.id} in slot ${one.slot}${one.pins ? `, used by ${counted(one.pins, "request")}` : ""}`).join("; ")) : "",
      el("div", { class: "buttons" },
        act("Probe", () => this._probe(id, probed), state === "refused"),
        act("Load", change("load"), state === "resident"),
        act("Unload", change("unload"), state === "unloaded")),
      probed);
  }

  async _act(button, work) {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      this._say(error.message);
    }
    button.disabled = false;
  }

  async _probe(id, place) {
    const probe = await this._api.post(`/v1/adapters/${encodeURIComponent(id)}/probe`, { prompt: this._theme.value });
    const likeliest = (tokens) => tokens.slice(0, 5).map(({ token, logprob }) => `${token} ${(100 * Math.exp(logprob)).toFixed(0)} %`).join("  ");
    place.replaceChildren(facts([
      ["KL from the base", `${probe.kl_divergence.toFixed(4)} nats`],
      ["Largest change of a logit", probe.max_logit_change.toFixed(3)],
      ["First token", likeliest(probe.top)],
      ["Base's first token", likeliest(probe.base_top)],
    ]));
  }
}

function reported(report) {
  const norm = report.delta_norm;
  return el("div", {}, facts([
    ["Format", report.format],
    ["Modules", report.matched],
    ["Rank", report.rank],
    ["Scale", report.scale],
    ["Size of the update", norm === null ? "not used yet" : norm.toPrecision(4)],
    ["Weights", bytes(report.bytes)],
    ["Digest", report.digest.slice(0, 12)],
    ["Made for", report.recorded_base],
  ]), ...report.warnings.map((warning) => el("p", { class: "problem" }, warning)));
}
