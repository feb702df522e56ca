// LangChain's provider for Ollama.
import assert from 'node:assert/strict';
import { test } from 'node:test';
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
