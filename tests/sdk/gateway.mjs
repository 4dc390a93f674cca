// OpenAI's SDK for Node against the gateway; tests/tests/inference/sdk.rs runs it.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { GATEWAY_URL, ENGINE_URL, ENGINE_KEY, KEY, FEW_KEY, MODEL, VECTORS, CALLING, SLEEPING, CANARY, SDK } = process.env;
const OpenAI = createRequire(`${SDK}/`)("openai");
const gateway = new OpenAI({ baseURL: `${GATEWAY_URL}/v1`, apiKey: KEY });
const messages = [{ role: "user", content: `Say hello. ${CANARY}` }];
// As in gateway.py.
const [FREED_MAX, LEAVERS_MAX] = [500, 10];

const create = (more) => gateway.chat.completions.create({ model: MODEL, messages, max_tokens: 16, ...more });

async function raises(kind, status, call) {
  let found;
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof kind, `${error}`);
    assert.equal(error.status, status);
    assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
    found = error;
    return true;
  });
  return found;
}

async function models() {
  const names = [];
  for await (const model of gateway.models.list()) names.push(model.id);
  for (const name of [MODEL, VECTORS, SLEEPING]) assert.ok(names.includes(name), names.join());
  assert.equal((await gateway.models.retrieve(MODEL)).id, MODEL);
}

async function chat() {
  const answer = await create();
  assert.ok(answer.choices[0].message.content && answer.usage.total_tokens > 0);
}

async function stream() {
  let text = "";
  let usage;
  for await (const chunk of await create({ stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.ok(text && usage.completion_tokens > 0);
}

async function tools() {
  const city = { type: "string", enum: ["Utrecht", "Delft"] };
  const parameters = { type: "object", properties: { city }, required: ["city"], additionalProperties: false };
  const tool = { type: "function", function: { name: "get_weather", parameters } };
  const wish = { model: CALLING, tools: [tool], tool_choice: "required", parallel_tool_calls: true };
  const cities = (message) => message.tool_calls.map((call) => JSON.parse(call.function.arguments).city);
  assert.deepEqual(cities((await create(wish)).choices[0].message), ["Delft", "Utrecht"]);
  // The SDK's own helper puts the pieces of a stream together.
  const streamed = gateway.chat.completions.stream({ messages, ...wish });
  assert.deepEqual(cities(await streamed.finalMessage()), ["Delft", "Utrecht"]);
  const form = { type: "json_schema", json_schema: { name: "weather", schema: parameters } };
  const held = await create({ max_tokens: 64, response_format: form });
  assert.ok(city.enum.includes(JSON.parse(held.choices[0].message.content).city));
}

async function completions() {
  const wish = { model: MODEL, prompt: "One, two, three,", max_tokens: 8, seed: 1, temperature: 0 };
  const whole = await gateway.completions.create(wish);
  let text = "";
  for await (const chunk of await gateway.completions.create({ ...wish, stream: true })) {
    text += chunk.choices[0]?.text ?? "";
  }
  assert.ok(text.includes("four"));
  assert.equal(text, whole.choices[0].text);
}

async function embeddings() {
  const input = ["a cat", "a cat", "the tax office"];
  const { data, usage } = await gateway.embeddings.create({ model: VECTORS, input });
  const [one, same, other] = data.map((row) => row.embedding);
  const far = (left, right) => Math.max(...left.map((value, place) => Math.abs(value - right[place])));
  assert.ok(one.length === 576 && usage.prompt_tokens > 3);
  assert.ok(far(one, same) < 1e-3 && far(one, other) > 1e-3);
}

async function errors() {
  const missing = await raises(OpenAI.NotFoundError, 404, () => create({ model: "nowhere" }));
  assert.equal(missing.code, "model_not_found");
  const stranger = gateway.withOptions({ apiKey: "sk-no" });
  await raises(OpenAI.AuthenticationError, 401, () => stranger.models.list());
  await raises(OpenAI.BadRequestError, 400, () => create({ messages: [] }));
  const few = gateway.withOptions({ apiKey: FEW_KEY, maxRetries: 0 });
  const ask = () => few.chat.completions.create({ model: MODEL, messages, max_tokens: 1 });
  await ask();
  const limit = await raises(OpenAI.RateLimitError, 429, ask);
  assert.ok(Number(limit.headers.get("retry-after")) > 0);
  let sent = 0;
  const counted = gateway.withOptions({ fetch: (...call) => ((sent += 1), fetch(...call)) });
  const refused = await raises(OpenAI.InternalServerError, 502, () =>
    counted.chat.completions.create({ model: MODEL, messages, tools: [{ type: "function" }] }),
  );
  assert.equal(refused.headers.get("x-should-retry"), "false");
  assert.equal(sent, 1, "the SDK obeys");
}

async function busy() {
  const answer = await fetch(`${ENGINE_URL}/slots`, { headers: { Authorization: `Bearer ${ENGINE_KEY}` } });
  return (await answer.json()).filter((slot) => slot.is_processing).length;
}

async function cancel() {
  const freed = [];
  while (freed.length === 0 || (Math.min(...freed) > FREED_MAX && freed.length < LEAVERS_MAX)) {
    const chunks = await create({ max_tokens: 3000, stream: true, ignore_eos: true });
    for await (const chunk of chunks) {
      assert.ok(chunk.id);
      break;
    }
    const left = performance.now();
    chunks.controller.abort();
    while (await busy()) assert.ok(performance.now() - left < 30_000, "the engine works on for nobody");
    freed.push(performance.now() - left);
  }
  console.log("freed after", freed.map((time) => `${time.toFixed(0)} ms`).join());
  assert.ok(Math.min(...freed) <= FREED_MAX);
}

async function queued() {
  const { data, response } = await gateway.chat.completions
    .create({ model: SLEEPING, messages, stream: true })
    .withResponse();
  const job = response.headers.get("x-homelab-job");
  data.controller.abort();
  console.log("cancelled", job);
}

async function batch() {
  const line = (number) => ({
    custom_id: `line-${number}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { model: MODEL, messages, max_tokens: 4 },
  });
  const text = [1, 2, 3].map((number) => JSON.stringify(line(number))).join("\n");
  const file = await gateway.files.create({ file: new File([text], "in.jsonl"), purpose: "batch" });
  let made = await gateway.batches.create({
    input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h",
  });
  const until = performance.now() + 120_000;
  while (made.status !== "completed") {
    assert.ok(performance.now() < until, JSON.stringify(made));
    await new Promise((done) => setTimeout(done, 200));
    made = await gateway.batches.retrieve(made.id);
  }
  const answers = await (await gateway.files.content(made.output_file_id)).text();
  assert.equal(answers.trim().split("\n").length, 3);
}

async function responses() {
  const wish = { model: MODEL, input: "Say hello.", max_output_tokens: 16 };
  const answer = await gateway.responses.create(wish);
  assert.ok(answer.output_text && answer.usage.total_tokens > 0);
  let text = "";
  let whole;
  for await (const event of await gateway.responses.create({ ...wish, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.response) whole = event.response;
  }
  assert.ok(text.length > 0 && whole.output.length > 0);
}

for (const step of [models, chat, stream, tools, completions, embeddings, errors, cancel, queued, batch, responses]) {
  const began = performance.now();
  await step();
  console.log("ok", step.name, `${((performance.now() - began) / 1000).toFixed(2)} s`);
}
process.exit(0);
