// One poem on the page: it grows, it is decided about, it is edited. Its box never changes its size.

import { el } from "./dom.js";
import { difference } from "./difference.js";

const DONE = { accept: "Kept", edit: "Kept as edited", reject: "Rejected" };

export class PoemView {
  /** @param on `{ decide(view, action, text), undo(view), draft(view) }` */
  constructor(on) {
    this._on = on;
    this._pending = "";
    this._node = document.createTextNode("");
    this.box = el("div", { class: "poem", tabindex: 0, role: "region" }, this._node);
    this.note = el("p", { class: "note" });
    this._actions = el("div", { class: "actions" },
      this._button("accept", "Keep", "k"), this._button("reject", "Reject", "r"),
      this._button("edit", "Edit", "e"), this._button("undo", "Undo", "u"));
    this.node = el("div", { class: "written" }, this.box, this.note, this._actions);
    this.clear();
  }

  /** Begin anew. `made` is what the poem is made with, and stays with it. */
  clear(made = null) {
    if (this._area !== null) this._close();
    this.made = made;
    this.text = "";
    this.state = made === null ? "empty" : "writing"; // or "done", "broken"
    this.problem = "";
    this.finishReason = null;
    this.usage = null;
    this.fingerprint = null;
    this.seconds = null;
    this.decision = null; // { action, text, number, id }
    this.draft = null;
    this._different = null;
    this._begun = performance.now();
    this._pending = "";
    this._node = document.createTextNode("");
    this.box.replaceChildren(this._node);
    this.box.removeAttribute("lang");
    this.show();
  }

  /** Take in what a run kept: a poem that was there before the page was loaded again. */
  restore(kept) {
    this.clear(kept.made);
    Object.assign(this, kept);
    if (this.state === "writing") this.finish("This poem was cut off when the page was left.");
    this._plain();
    this.show();
  }

  /** What `restore` takes. */
  get kept() {
    const { made, text, state, problem, finishReason, usage, fingerprint, seconds, decision, draft } = this;
    return { made, text, state, problem, finishReason, usage, fingerprint, seconds, decision, draft };
  }

  /** More text; it is shown by the next `flush`. */
  add(text) {
    this.text += text;
    this._pending += text;
  }

  /** Show what came since the last time: one change of one text, however long the poem is. */
  flush() {
    if (this._pending === "") return;
    this._node.appendData(this._pending);
    this._pending = "";
  }

  /** Nothing more comes; with a problem, not all of it came. */
  finish(problem = "") {
    this.flush();
    this.state = problem === "" ? "done" : "broken";
    this.problem = problem;
    this.seconds ??= (performance.now() - this._begun) / 1000;
    if (/\p{Script=Han}/u.test(this.text)) this.box.lang = "zh";
    this.show();
  }

  /** Mark what differs from another poem's text; null marks nothing. */
  compare(first) {
    if (this._area !== null || this.state === "writing") return;
    this._different = null;
    this._plain();
    const text = this.shown;
    if (first !== null && text !== "" && first !== "") {
      const runs = difference(first, text);
      this._different = runs.filter((run) => !run.same).reduce((n, run) => n + Array.from(run.text).length, 0);
      this.box.replaceChildren(...runs.map((run) => (run.same ? run.text : el("mark", {}, run.text))));
    }
    this.show();
  }

  /** Let the poet change the poem; the box stays as it is. */
  edit() {
    if (!this.text.trim() || this._area !== null) return;
    const area = el("textarea", {
      class: "poem", "aria-label": "The poem as you change it", value: this.draft ?? this.shown,
      "aria-describedby": "edit-keys", spellcheck: "false",
      oninput: () => {
        this.draft = area.value;
        this._on.draft(this);
      },
      onkeydown: (event) => {
        if (event.key === "Escape") this._leave();
        else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this._save();
        else return;
        event.preventDefault();
      },
    });
    this._area = area;
    this.box.replaceWith(area);
    this.show();
    area.focus();
  }

  show() {
    this._buttons();
    this.note.textContent = this._noted();
    this.note.classList.toggle("problem", this.problem !== "");
    this.node.dataset.decision = this.decision?.action ?? "";
    this.node.dataset.state = this.state;
  }

  act(action) {
    if (action === "save") this._save();
    else if (action === "leave") this._leave();
    else if (action === "edit") this.edit();
    else if (action === "undo") this._on.undo(this);
    else if (this.text.trim()) this._on.decide(this, action, null);
  }

  /** The model, where the column names another one by now. */
  by = "";
  /** Whether nothing may tell the model; what the server says of a failure does. */
  isBlind = false;

  _area = null;
  _different = null;

  /** The poem in the poet's version, or as the model wrote it. */
  get shown() {
    return this.decision?.text ?? this.text;
  }

  _plain() {
    this._node = document.createTextNode(this.shown);
    this._pending = "";
    this.box.replaceChildren(this._node);
  }

  _save() {
    const text = this._area.value;
    if (!text.trim()) return;
    this._close();
    this._on.decide(this, "edit", text);
  }

  _leave() {
    this._close();
    this._on.draft(this);
  }

  _close() {
    const area = this._area;
    this._area = null;
    this.draft = null;
    area.replaceWith(this.box);
    this.show();
    this.box.focus();
  }

  _button(action, label, key) {
    return el("button", {
      type: "button", "data-action": action, "aria-keyshortcuts": key, onclick: () => this.act(this._named(action)),
    }, label);
  }

  /** While the poet edits, the first two buttons save and leave. */
  _named(action) {
    if (this._area === null) return action;
    return { accept: "save", reject: "leave" }[action] ?? action;
  }

  _buttons() {
    const [keep, reject, edit, undo] = this._actions.children;
    const isEditing = this._area !== null, hasText = this.text.trim() !== "" && this.state !== "writing";
    keep.textContent = isEditing ? "Save" : "Keep";
    reject.textContent = isEditing ? "Cancel" : "Reject";
    keep.disabled = reject.disabled = !hasText;
    edit.disabled = !hasText || isEditing;
    undo.disabled = this.decision === null || isEditing;
    keep.setAttribute("aria-pressed", String(["accept", "edit"].includes(this.decision?.action)));
    reject.setAttribute("aria-pressed", String(this.decision?.action === "reject"));
  }

  _noted() {
    if (this.problem) return this.isBlind ? "This poem was not finished." : this.problem;
    if (this.state === "empty") return "";
    if (this.state === "writing") return "Writing …";
    const parts = [];
    if (this.decision) parts.push(DONE[this.decision.action] + (this.decision.number ? "" : ", not saved yet"));
    if (this.finishReason === "length") parts.push("cut off by its length");
    if (this._different !== null) parts.push(this._different ? `${this._different} characters differ from the first` : "same as the first");
    if (this.by) parts.push(`by ${this.by}`);
    if (this.usage) parts.push(`${this.usage.completion_tokens} tokens`);
    if (this.seconds !== null) parts.push(`${this.seconds.toFixed(1)} s`);
    return parts.join(" · ");
  }
}
