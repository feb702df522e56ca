// OpenAI's own JavaScript client.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { agentModel, calls, chatModel, endings, messages, question, tool } from './lab.js';

const connect = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });

endings('openai chat', async function* (url) {
  const stream = await connect(url).chat.completions.create({ model: chatModel, messages, stream: true });
  for await (const chunk of stream) yield chunk.choices[0].delta.content;
}, { empty: true, cut: /terminated/ });

endings('openai chat, .stream()', async function* (url) {
  const stream = connect(url).chat.completions.stream({ model: chatModel, messages });
  const pieces = [];
  stream.on('content', (piece) => piece && pieces.push(piece)); // a heartbeat in mid-stream is one of no text
  try {
    const whole = await stream.finalChatCompletion();
    assert.equal(whole.choices[0].message.content, pieces.join(''));
    assert.notEqual(whole.id, '');
  } finally {
    yield* pieces;
  }
}, { cut: /terminated/ });

endings('openai responses', async function* (url) {
  const stream = await connect(url).responses.create({ model: chatModel, input: question, stream: true });
  for await (const event of stream) if (event.type === 'response.output_text.delta') yield event.delta;
}, { cut: /terminated/ });

const toolChat = (task, more = {}) => ({
  model: agentModel, messages: [{ role: 'user', content: task }], tools: [{ type: 'function', function: { ...tool, ...more } }],
});

calls('openai chat', async (url, task) => {
  const stream = await connect(url).chat.completions.create({ ...toolChat(task), stream: true });
  const said = { text: '', calls: [] };
  for await (const { choices: [{ delta }] } of stream) {
    said.text += delta.content ?? '';
    for (const { function: f } of delta.tool_calls ?? []) said.calls.push([f.name, JSON.parse(f.arguments)]);
  }
  return said;
});

calls('openai chat, .stream()', async (url, task) => {
  const whole = await connect(url).chat.completions.stream(toolChat(task)).finalChatCompletion();
  const { content, tool_calls } = whole.choices[0].message;
  assert.notEqual(whole.id, '');
  return { text: content, calls: tool_calls.map(({ function: f }) => [f.name, JSON.parse(f.arguments)]) };
});

// It calls the tool, and has the model say what it makes of that.
calls('openai chat, .runTools()', async (url, task) => {
  const made = [];
  const runner = connect(url).chat.completions.runTools({
    ...toolChat(task, { parse: JSON.parse, function: (input) => (made.push([tool.name, input]), 'done') }), stream: true,
  });
  assert.match(await runner.finalContent(), /^I wrote the line hello/);
  return { text: runner.messages.find(({ role }) => role === 'assistant').content, calls: made };
});

calls('openai responses', async (url, task) => {
  const stream = await connect(url).responses.create({
    model: agentModel, input: task, tools: [{ type: 'function', strict: false, ...tool }], stream: true,
  });
  const said = { text: '', calls: [] };
  for await (const event of stream) {
    if (event.type === 'response.output_text.delta') said.text += event.delta;
    if (event.type !== 'response.completed') continue;
    for (const item of event.response.output) {
      if (item.type === 'function_call') said.calls.push([item.name, JSON.parse(item.arguments)]);
    }
  }
  return said;
});
