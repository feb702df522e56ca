// LangChain's provider for Ollama.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatOllama, OllamaEmbeddings } from '@langchain/ollama';
import { chatModel, each, embedModel, fetchUntil, headers, long, patienceInStream, question, running, url } from './lab.js';

const connection = { baseUrl: url, headers, model: chatModel, maxRetries: 0 };

test('langchain: chat, whole and streamed', async () => {
  const model = new ChatOllama(connection);
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
  const model = new ChatOllama({ ...connection, model: 'absent' });
  await assert.rejects(model.invoke(question), /model 'absent' not found/);
});

test('langchain: abort of a stream', patienceInStream, async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const model = new ChatOllama({ ...connection, numPredict: long, fetch: fetchUntil(signal) }); // stream({ signal }) leaves the request alone
  await assert.rejects(async () => {
    for await (const chunk of await model.stream(question, { signal })) if (chunk.content) controller.abort();
  }, { name: 'AbortError' });
  assert.notEqual((await new ChatOllama(connection).invoke(question)).content, '');
});

test('langchain: abort of a whole answer', patienceInStream, async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const whole = new ChatOllama({ ...connection, numPredict: long }).invoke(question, { signal }); // which reads a stream as well
  await running();
  controller.abort();
  await whole; // as much as there was of it, without an error
  assert.notEqual((await new ChatOllama(connection).invoke(question)).content, '');
});
