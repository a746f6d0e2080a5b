// The page: tabs, the key, and what is in each tab.

import { Adapters } from "./adapters.js";
import { Api } from "./api.js";
import { Decisions } from "./decisions.js";
import { el } from "./dom.js";
import { Jobs, hasJobs } from "./jobs.js";
import { Queue } from "./queue.js";
import { emptyColumn, emptySetup, partsOf, toHash } from "./setup.js";
import { Try } from "./try.js";

const TAB = "verse-tab";
const REFRESH_MS = 2000;

const byId = (id) => document.getElementById(id);
const say = (sentence) => (byId("status").textContent = sentence);

const api = new Api(askForKey);
const waiting = el("p", { role: "alert", class: "status problem" });
byId("status").after(waiting);
const decisions = new Decisions(api, (sentence) => (waiting.textContent = sentence));

const parts = {
  try: new Try(byId("panel-try"), api, decisions, say),
  adapters: new Adapters(byId("panel-adapters"), api, say),
  jobs: new Jobs(byId("panel-jobs"), api, say, tryModel),
  queue: new Queue(byId("panel-queue"), api),
};
const tabs = [...document.querySelectorAll("[role=tab]")];
const nameOf = (tab) => tab.id.replace("tab-", "");
let current = "try";

function open(name) {
  current = name;
  sessionStorage.setItem(TAB, name);
  for (const tab of tabs) {
    const isOpen = nameOf(tab) === name;
    tab.setAttribute("aria-selected", String(isOpen));
    tab.tabIndex = isOpen ? 0 : -1;
    byId(`panel-${nameOf(tab)}`).hidden = !isOpen;
  }
  refresh();
}

/** What is in view is asked for anew; a failure is said and does not stop the next time. */
async function refresh() {
  try {
    await parts[current]?.show?.();
  } catch (error) {
    say(error.message);
  }
}

/** A column for a model that has just come, on the theme that is there. */
async function tryModel(model) {
  const setup = { ...emptySetup(), theme: parts.try.theme, columns: [{ ...emptyColumn(model), parts: partsOf(model) }] };
  history.replaceState(null, "", toHash(setup));
  open("try");
  await begin();
}

/** Ask what there is: models, and whether there are jobs. */
async function begin() {
  try {
    await parts.try.start();
    byId("tab-jobs").hidden = !(await hasJobs(api));
    if (sessionStorage.getItem(TAB) === "jobs" && !byId("tab-jobs").hidden) open("jobs");
  } catch (error) {
    say(error.message);
  }
}

function onTabKey(event) {
  const shown = tabs.filter((tab) => !tab.hidden);
  const steps = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const index = shown.indexOf(event.target);
  let next = { Home: shown[0], End: shown.at(-1) }[event.key];
  if (steps !== undefined) next = shown[(index + steps + shown.length) % shown.length];
  if (next === undefined) return;
  event.preventDefault();
  next.focus();
  open(nameOf(next));
}

/** Resolves to what somebody typed; the dialog stays until there is something. */
function askForKey(why) {
  const dialog = byId("key-dialog"), input = byId("key");
  byId("key-problem").textContent = why;
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.oncancel = (event) => event.preventDefault();
    dialog.onclose = () => {
      byId("change-key").hidden = false;
      const key = input.value.trim();
      input.value = "";
      resolve(key);
    };
  });
}

for (const tab of tabs) {
  tab.addEventListener("click", () => open(nameOf(tab)));
  tab.addEventListener("keydown", onTabKey);
}
byId("change-key").hidden = !api.hasKey;
byId("change-key").addEventListener("click", () => {
  api.forgetKey();
  refresh();
  begin();
});
setInterval(() => {
  if (current !== "adapters" && document.visibilityState === "visible") refresh();
}, REFRESH_MS);

if (sessionStorage.getItem(TAB) !== "jobs") open(sessionStorage.getItem(TAB) ?? "try");
await begin();
