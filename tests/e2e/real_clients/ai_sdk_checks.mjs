// Vercel's AI SDK with its provider for OpenAI-compatible servers.
// OPENAI_BASE_URL and OPENAI_API_KEY name the server.
import assert from "node:assert/strict";
import test from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const verse = createOpenAICompatible({
  name: "verse",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const asked = { model: verse("xuzhimo"), prompt: "河", seed: 3, maxOutputTokens: 12, maxRetries: 0 };
const verdict = z.object({
  mood: z.enum(["静", "悲", "喜"]),
  score: z.number().int().min(0).max(10),
});

test("generateText and streamText write the same poem", async () => {
  const whole = await generateText(asked);
  assert.equal(whole.usage.outputTokens, 12);
  const stream = streamText(asked);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, 12);
});

test("generateObject and streamObject follow the schema", async () => {
  const objects = { ...asked, schema: verdict, maxOutputTokens: 60 };
  verdict.parse((await generateObject(objects)).object);
  const stream = streamObject(objects);
  for await (const _ of stream.partialObjectStream);
  verdict.parse(await stream.object);
});

test("a tool that must be called is called, whole and streamed", async () => {
  const tools = { judge: tool({ description: "Judges.", inputSchema: verdict }) };
  for (const toolChoice of ["required", { type: "tool", toolName: "judge" }]) {
    const called = { ...asked, tools, toolChoice, maxOutputTokens: 60 };
    const { toolCalls } = await generateText(called);
    assert.equal(toolCalls.length, 1);
    verdict.parse(toolCalls[0].input);
    const streamed = await streamText(called).toolCalls;
    assert.equal(streamed.length, 1);
    verdict.parse(streamed[0].input);
  }
});

test("a tool that may be called leaves a poem a poem", async () => {
  const tools = { judge: tool({ description: "Judges.", inputSchema: verdict, execute: () => "静" }) };
  const { text, finishReason } = await generateText({ ...asked, tools });
  assert.ok(text || finishReason === "tool-calls");
});

test("a tool's result goes back into the conversation", async () => {
  const tools = { judge: tool({ description: "Judges.", inputSchema: verdict, execute: () => "静" }) };
  const first = await generateText({ ...asked, tools, toolChoice: "required", maxOutputTokens: 60 });
  assert.equal(first.toolResults.length, 1);
  const messages = [{ role: "user", content: "河" }, ...first.response.messages];
  const { prompt, ...rest } = asked;
  const second = await generateText({ ...rest, messages });
  assert.ok(second.text);
  assert.ok(second.usage.inputTokens > (await generateText(asked)).usage.inputTokens);
});

test("an error is the server's own", async () => {
  await assert.rejects(generateText({ ...asked, model: verse("nobody") }), /nobody/);
});
