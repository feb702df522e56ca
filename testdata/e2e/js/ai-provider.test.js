// Vercel's AI SDK with the other provider for Ollama.
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import { test } from 'node:test';
import { embedMany, generateText, streamText } from 'ai';
import { createOllama } from 'ollama-ai-provider-v2';
import { chatModel, each, embedModel, headers, question, url } from './lab.js';

globalThis.crypto ??= webcrypto; // Node.js 18 has it under another name

const ollama = createOllama({ baseURL: `${url}/api`, headers });
const ask = { model: ollama(chatModel), prompt: question, maxRetries: 0, onError: () => {} };

test('ollama-ai-provider-v2: chat, whole and streamed', async () => {
  const whole = await generateText(ask);
  assert.notEqual(whole.text, '');
  const texts = await each(streamText(ask).textStream);
  assert.equal(texts.join(''), whole.text);
});

test('ollama-ai-provider-v2: embed', async () => {
  const { embeddings } = await embedMany({ model: ollama.embedding(embedModel), values: ['one', 'two'], maxRetries: 0 });
  assert.equal(embeddings.length, 2);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
});

test('ollama-ai-provider-v2: an unknown model', async () => {
  await assert.rejects(generateText({ ...ask, model: ollama('absent') }), (err) => {
    assert.equal(err.statusCode, 404);
    assert.match(err.responseBody, /model 'absent' not found/);
    return true;
  });
});

test('ollama-ai-provider-v2: abort', async () => {
  const left = new AbortController();
  const { textStream } = streamText({ ...ask, providerOptions: { ollama: { options: { num_predict: 80000 } } }, abortSignal: left.signal });
  for await (const text of textStream) if (text) left.abort();
  assert.notEqual((await generateText(ask)).text, '');
});
