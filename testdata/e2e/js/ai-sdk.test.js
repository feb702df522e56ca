// Vercel's AI SDK with its provider for Ollama.
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import { test } from 'node:test';
import { embedMany, generateText, streamText } from 'ai';
import { createOllama } from 'ai-sdk-ollama';
import { chatModel, each, embedModel, headers, question, url } from './lab.js';

globalThis.crypto ??= webcrypto; // Node.js 18 has it under another name

const ollama = createOllama({ baseURL: url, headers });
const ask = (model) => ({ model: ollama(model), prompt: question, maxRetries: 0, onError: () => {} });

test('ai-sdk: chat, whole and streamed', async () => {
  const whole = await generateText(ask(chatModel));
  assert.notEqual(whole.text, '');
  const texts = await each(streamText(ask(chatModel)).textStream);
  assert.equal(texts.join(''), whole.text);
  assert.ok(texts.length > 12, `${texts.length} chunks`);
});

test('ai-sdk: embed', async () => {
  const { embeddings } = await embedMany({ model: ollama.embedding(embedModel), values: ['one', 'two'], maxRetries: 0 });
  assert.equal(embeddings.length, 2);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
});

test('ai-sdk: an unknown model', async () => {
  await assert.rejects(generateText(ask('absent')), /model 'absent' not found/);
});

// It stops reading and does not hang up: the model goes on for as long as it wants to.
test('ai-sdk: abort', async () => {
  const left = new AbortController();
  const { textStream } = streamText({ ...ask(chatModel), model: ollama(chatModel, { options: { num_predict: 500 } }), abortSignal: left.signal });
  for await (const text of textStream) if (text) left.abort();
  assert.notEqual((await generateText(ask(chatModel))).text, '');
});
