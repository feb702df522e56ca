// Vercel's AI SDK with its two providers for Ollama.
import assert from 'node:assert/strict';
import { webcrypto } from 'node:crypto';
import { test } from 'node:test';
import { embedMany, generateText, streamText } from 'ai';
import * as aiSdkOllama from 'ai-sdk-ollama';
import * as providerV2 from 'ollama-ai-provider-v2';
import { chatModel, each, embedModel, fetchUntil, headers, long, patience, patienceInStream, question, running, url } from './lab.js';

globalThis.crypto ??= webcrypto; // Node.js 18 has it under another name

// Each connects with the fetch that it is given.
const providers = {
  'ai-sdk-ollama': (fetch) => aiSdkOllama.createOllama({ baseURL: url, headers, fetch }),
  'ollama-ai-provider-v2': (fetch) => providerV2.createOllama({ baseURL: `${url}/api`, headers, fetch }),
};
for (const [name, connect] of Object.entries(providers)) {
  const ollama = connect();
  const ask = (model) => ({ model: ollama(model), prompt: question, maxOutputTokens: 12, maxRetries: 0, onError: () => {} });

  test(`${name}: chat, whole and streamed`, async () => {
    const whole = await generateText(ask(chatModel));
    assert.notEqual(whole.text, '');
    const texts = await each(streamText(ask(chatModel)).textStream);
    assert.equal(texts.join(''), whole.text);
    assert.ok(texts.length >= 12, `${texts.length} chunks`);
  });

  test(`${name}: embed`, async () => {
    const { embeddings } = await embedMany({ model: ollama.embedding(embedModel), values: ['one', 'two'], maxRetries: 0 });
    assert.equal(embeddings.length, 2);
    assert.notDeepEqual(embeddings[0], embeddings[1]);
  });

  test(`${name}: an unknown model`, async () => {
    const notFound = (err) => {
      assert.match(err.responseBody ?? err.message, /model 'absent' not found/); // ollama-ai-provider-v2 says Not Found, and has the rest
      return true;
    };
    await assert.rejects(generateText(ask('absent')), notFound);
    let told;
    await streamText({ ...ask('absent'), onError: ({ error }) => { told = error; } }).consumeStream();
    assert.ok(notFound(told));
  });

  // ai-sdk-ollama does not hand the signal to its requests: its fetch has to have it.
  const longAnswer = (signal) => ({
    ...ask(chatModel), model: connect(name === 'ai-sdk-ollama' ? fetchUntil(signal) : undefined)(chatModel), maxOutputTokens: long, abortSignal: signal,
  });

  test(`${name}: abort of a stream`, patienceInStream, async () => {
    const controller = new AbortController();
    let aborted = false;
    const stream = streamText({ ...longAnswer(controller.signal), onAbort: () => { aborted = true; } });
    for await (const text of stream.textStream) if (text) controller.abort();
    assert.ok(aborted);
    assert.notEqual((await generateText(ask(chatModel))).text, '');
  });

  test(`${name}: abort of a whole answer`, patience, async () => {
    const controller = new AbortController();
    const whole = generateText(longAnswer(controller.signal));
    running().then(() => controller.abort());
    await assert.rejects(whole, /aborted/);
    assert.notEqual((await generateText(ask(chatModel))).text, '');
  });
}
