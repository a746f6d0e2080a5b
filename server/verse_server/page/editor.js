// The settings of one column: adapters with their checkpoints and strengths, temperature, seed.

import { el, field } from "./dom.js";
import { BASE, MAX_STRENGTH, emptyPart, modelOf, temperature, whole } from "./setup.js";

const MAX_FILLED = 50;

export class ColumnEditor {
  /**
   * @param column the column's part of the set-up; it is changed as people change the fields
   * @param models what the server has: `[{ id, steps }]`, the base first
   * @param changed called after each change
   */
  constructor(column, models, changed) {
    this._column = column;
    this._models = models;
    this._changed = changed;
    this._parts = el("div", { class: "parts" });
    this.node = el("div", { class: "settings" }, this._parts, this._more());
    this._show();
  }

  get model() {
    return modelOf(this._column.parts);
  }

  _show() {
    this._parts.replaceChildren(...this._column.parts.map((part, index) => this._part(part, index)));
  }

  _part(part, index) {
    const steps = this._models.find((model) => model.id === part.name)?.steps ?? [];
    return el("div", { class: "part", role: "group", "aria-label": index ? "Blended with" : "Adapter" },
      this._adapter(part, index),
      this._checkpoint(part, steps),
      this._strength(part),
      index === 0 ? null : el("button", {
        type: "button", class: "quiet", "aria-label": `Take ${part.name} out of the blend`,
        onclick: () => this._change(() => this._column.parts.splice(index, 1), true),
      }, "×"));
  }

  _adapter(part, index) {
    const names = this._models.map((model) => model.id).filter((name) => index === 0 || name !== BASE);
    if (!names.includes(part.name)) names.push(part.name);
    const fill = () => {
      if (select.length === names.length) return;
      select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
      select.value = part.name;
    };
    const select = el("select", {
      onfocus: fill,
      onpointerdown: fill,
      onchange: () => this._change(() => Object.assign(part, { name: select.value, checkpoint: "" }), true),
    }, el("option", { value: part.name }, part.name));
    // Two hundred columns with thousands of names each would be slow: those fill when they are used.
    if (names.length <= MAX_FILLED) fill();
    return field(index ? "Blended with" : "Adapter", select);
  }

  /** A slider whose last position is the published weights. */
  _checkpoint(part, steps) {
    const known = part.checkpoint === "" || steps.includes(part.checkpoint);
    const stops = known ? [...steps, ""] : [...steps, part.checkpoint, ""];
    const shown = el("span", { class: "value", "aria-hidden": "true" });
    const name = (stop) => (stop === "" ? "published" : stop);
    const slider = el("input", {
      type: "range", min: 0, max: stops.length - 1, step: 1, disabled: stops.length === 1,
      oninput: () => {
        this._change(() => (part.checkpoint = stops[slider.value]));
        show();
      },
    });
    const show = () => {
      shown.textContent = name(part.checkpoint);
      slider.setAttribute("aria-valuetext", part.checkpoint === "" ? "published weights" : `step ${part.checkpoint}`);
    };
    slider.value = stops.indexOf(part.checkpoint);
    show();
    return field("Checkpoint", slider, shown);
  }

  _strength(part) {
    const shown = el("span", { class: "value", "aria-hidden": "true" });
    const slider = el("input", {
      type: "range", min: 0, max: MAX_STRENGTH, step: 0.05, disabled: part.name === BASE,
      oninput: () => {
        this._change(() => (part.strength = Number(slider.value)));
        shown.textContent = part.strength.toFixed(2);
      },
    });
    slider.value = part.strength;
    shown.textContent = part.strength.toFixed(2);
    return field("Strength", slider, shown);
  }

  _more() {
    const column = this._column;
    const heat = el("input", {
      type: "number", min: 0, max: 2, step: 0.05, placeholder: "default", inputmode: "decimal",
      value: column.temperature ?? "",
      oninput: () => this._change(() => (column.temperature = temperature(heat.value))),
    });
    const seed = el("input", {
      type: "number", min: 0, step: 1, placeholder: "as all", inputmode: "numeric",
      value: column.seed ?? "",
      oninput: () => this._change(() => (column.seed = whole(seed.value))),
    });
    const blend = el("button", {
      type: "button", class: "quiet",
      onclick: () => this._change(() => this._blend(), true),
    }, "Blend");
    return el("div", { class: "more" }, field("Temperature", heat), field("Seed", seed), blend);
  }

  /** One more adapter, half and half to begin with. */
  _blend() {
    const { parts } = this._column;
    const others = this._models.map((model) => model.id).filter((id) => id !== BASE);
    const next = others.find((id) => !parts.some((part) => part.name === id)) ?? others[0];
    if (next === undefined) return;
    if (parts[0].name === BASE) parts[0] = emptyPart(next);
    else {
      parts.push(emptyPart(next));
      if (parts.length === 2) parts.forEach((part) => (part.strength = 0.5));
    }
  }

  _change(change, isShape = false) {
    change();
    if (isShape) this._show();
    this._changed();
  }
}
