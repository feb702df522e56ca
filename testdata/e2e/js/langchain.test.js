// LangChain's provider for Ollama.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { ChatOllama, OllamaEmbeddings } from '@langchain/ollama';
import { chatModel, each, embedModel, headers, question, url } from './lab.js';

test('langchain: chat, whole and streamed', async () => {
  const model = new ChatOllama({ baseUrl: url, headers, model: chatModel, maxRetries: 0 });
  const whole = await model.invoke(question);
  assert.notEqual(whole.content, '');
  const texts = await each(await model.stream(question), (chunk) => chunk.content);
  assert.equal(texts.join(''), whole.content);
  assert.ok(texts.length > 12, `${texts.length} chunks`);
});

test('langchain: embed', async () => {
  const embeddings = new OllamaEmbeddings({ baseUrl: url, headers, model: embedModel, maxRetries: 0 });
  const [one, two] = await embeddings.embedDocuments(['one', 'two']);
  assert.deepEqual(await embeddings.embedQuery('one'), one);
  assert.notDeepEqual(one, two);
});

test('langchain: an unknown model', async () => {
  const model = new ChatOllama({ baseUrl: url, headers, model: 'absent', maxRetries: 0 });
  await assert.rejects(model.invoke(question), /model 'absent' not found/);
});

// The answer that is given up is neither read nor closed, and would keep this process
// alive until foreman closes the connection.
after(() => setTimeout(() => process.exit(), 1000).unref());

// It stops reading and does not hang up: the model goes on for as long as it wants to.
test('langchain: abort', async () => {
  const model = new ChatOllama({ baseUrl: url, headers, model: chatModel, numPredict: 500, maxRetries: 0 });
  const left = new AbortController();
  await assert.rejects(async () => {
    for await (const chunk of await model.stream(question, { signal: left.signal })) if (chunk.content) left.abort();
  }, /abort/i);
  const next = new ChatOllama({ baseUrl: url, headers, model: chatModel, maxRetries: 0 });
  assert.notEqual((await next.invoke(question)).content, '');
});
