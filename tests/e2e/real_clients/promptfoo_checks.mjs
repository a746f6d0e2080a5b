// promptfoo's evaluation; OPENAI_BASE_URL and OPENAI_API_KEY name the server.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const program = join(here, "node_modules/promptfoo/dist/src/entrypoint.js");
const schema = {
  type: "object",
  properties: { mood: { enum: ["静", "悲", "喜"] } },
  required: ["mood"],
  additionalProperties: false,
};
const format = { type: "json_schema", json_schema: { name: "verdict", strict: true, schema } };
const judge = { type: "function", function: { name: "judge", parameters: schema } };

function evaluated(config, assertion) {
  const folder = mkdtempSync(join(tmpdir(), "promptfoo-"));
  const suite = {
    prompts: ["写一首关于{{theme}}的诗"],
    providers: [{ id: "openai:chat:xuzhimo", config: { max_tokens: 60, seed: 3, ...config } }],
    tests: ["河", "月"].map((theme) => ({ vars: { theme }, assert: [assertion] })),
  };
  writeFileSync(join(folder, "promptfooconfig.json"), JSON.stringify(suite));
  const command = [program, "eval", "-c", "promptfooconfig.json", "-o", "out.json"];
  const ran = spawnSync(process.execPath, [...command, "--no-progress-bar", "--no-cache"], {
    cwd: folder,
    encoding: "utf8",
    env: {
      ...process.env,
      PROMPTFOO_CONFIG_DIR: join(folder, "home"),
      PROMPTFOO_DISABLE_TELEMETRY: "1",
      PROMPTFOO_DISABLE_UPDATE: "1",
    },
  });
  assert.equal(ran.status, 0, ran.stdout + ran.stderr);
  return JSON.parse(readFileSync(join(folder, "out.json"), "utf8")).results;
}

function assertAllPassed(results) {
  assert.equal(results.stats.successes, 2);
  assert.equal(results.stats.failures + results.stats.errors, 0);
  assert.ok(results.stats.tokenUsage.completion > 0);
}

test("poems are Chinese", () => {
  assertAllPassed(evaluated({}, { type: "regex", value: "[\u4e00-\u9fff]" }));
});

test("a schema is followed", () => {
  assertAllPassed(evaluated({ response_format: format }, { type: "is-json", value: schema }));
});

test("a tool is called", () => {
  const config = { tools: [judge], tool_choice: "required" };
  assertAllPassed(evaluated(config, { type: "is-valid-openai-tools-call" }));
});
