// Ollama's own JavaScript client.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Ollama } from 'ollama';
import { chatModel, each, embedModel, headers, long, patienceInStream, question, url } from './lab.js';

const client = new Ollama({ host: url, headers });
const messages = [{ role: 'user', content: question }];

test('ollama: chat, whole and streamed', async () => {
  const whole = await client.chat({ model: chatModel, messages });
  assert.notEqual(whole.message.content, '');
  const chunks = await each(await client.chat({ model: chatModel, messages, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.message.content).join(''), whole.message.content);
  assert.ok(chunks.length > whole.eval_count, `${chunks.length} chunks of ${whole.eval_count} tokens`);
  assert.ok(chunks.at(-1).done);
});

test('ollama: generate, whole and streamed', async () => {
  const whole = await client.generate({ model: chatModel, prompt: question });
  const chunks = await each(await client.generate({ model: chatModel, prompt: question, stream: true }));
  assert.notEqual(whole.response, '');
  assert.equal(chunks.map((chunk) => chunk.response).join(''), whole.response);
});

test('ollama: embed', async () => {
  const { embeddings } = await client.embed({ model: embedModel, input: ['one', 'two'] });
  assert.equal(embeddings.length, 2);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
  const { embedding } = await client.embeddings({ model: embedModel, prompt: 'one' });
  assert.equal(embedding.length, embeddings[0].length);
});

test('ollama: list, ps, show', async () => {
  const names = ({ models }) => models.map((model) => model.name).sort();
  assert.deepEqual(names(await client.list()), [`${chatModel}:latest`, `${embedModel}:latest`]);
  assert.ok(names(await client.ps()).includes(`${embedModel}:latest`));
  assert.equal((await client.show({ model: chatModel })).details.family, 'llama');
});

test('ollama: an unknown model', async () => {
  await assert.rejects(client.chat({ model: 'absent', messages, stream: true }), {
    name: 'ResponseError', status_code: 404, error: "model 'absent' not found",
  });
});

test('ollama: abort', patienceInStream, async () => {
  const stream = await client.chat({ model: chatModel, messages, stream: true, options: { num_predict: long } });
  await assert.rejects(async () => {
    for await (const chunk of stream) if (chunk.message.content) stream.abort();
  }, { name: 'AbortError' });
  const next = await client.chat({ model: chatModel, messages });
  assert.ok(next.done);
});
