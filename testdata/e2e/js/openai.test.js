// OpenAI's own JavaScript client, for which foreman's token is the key.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI, { toFile } from 'openai';
import { chatModel, each, earModel, earUrl, embedModel, long, patience, patienceInStream, question, running, silence, token, url } from './lab.js';

const connect = (base, apiKey) => new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0 });
const client = connect(url, token);
const ask = { model: chatModel, messages: [{ role: 'user', content: question }], max_tokens: 12 };

test('openai: chat, whole and streamed', async () => {
  const whole = await client.chat.completions.create(ask);
  assert.notEqual(whole.choices[0].message.content, '');
  const stream = await client.chat.completions.create({ ...ask, stream: true });
  const texts = await each(stream, (chunk) => chunk.choices[0].delta.content);
  assert.equal(texts.join(''), whole.choices[0].message.content);
  assert.ok(texts.length >= 12, `${texts.length} chunks`);
});

test('openai: embed', async () => {
  // Without encoding_format this client asks for base64, and reads it blindly.
  const { data } = await client.embeddings.create({ model: embedModel, input: ['one', 'two'], encoding_format: 'float' });
  assert.equal(data.length, 2);
  assert.notDeepEqual(data[0].embedding, data[1].embedding);
});

test('openai: models', async () => {
  const names = await each(client.models.list(), (model) => model.id);
  assert.deepEqual(names.sort(), [`${chatModel}:latest`, `${embedModel}:latest`]);
  assert.equal((await client.models.retrieve(chatModel)).id, chatModel);
});

test('openai: errors', async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: 'absent' }), (err) => {
    assert.ok(err instanceof OpenAI.NotFoundError, err);
    assert.equal(err.type, 'invalid_request_error');
    assert.equal(err.code, 'model_not_found');
    assert.match(err.message, /model 'absent' not found/);
    return true;
  });
  const stranger = connect(url, 'simsim');
  await assert.rejects(each(stranger.models.list()), OpenAI.AuthenticationError);
});

test('openai: responses, whole and streamed', async () => {
  const ask = { model: chatModel, input: question, max_output_tokens: 12 };
  const whole = await client.responses.create(ask);
  assert.notEqual(whole.output_text, '');
  assert.equal(whole.usage.output_tokens, 12);
  const events = await each(await client.responses.create({ ...ask, stream: true }));
  const texts = events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta);
  assert.equal(texts.join(''), whole.output_text);
  assert.ok(texts.length >= 12, `${texts.length} chunks`);
  assert.equal(events.at(-1).type, 'response.completed');
  await assert.rejects(client.responses.create({ ...ask, model: 'absent' }), OpenAI.NotFoundError);
});

test('openai: audio transcriptions', { skip: !earUrl && 'this Ollama has no model that hears' }, async () => {
  const ear = connect(earUrl, token);
  const ask = async (model) => ({ model, file: await toFile(silence(), 'silence.wav') });
  const said = await ear.audio.transcriptions.create({ ...await ask(earModel), response_format: 'text' });
  assert.equal(said.trim().split(/\s+/).length, 32);
  // Ollama says that its JSON is application/x-ndjson: this client leaves that unread.
  const json = await ear.audio.transcriptions.create(await ask(earModel));
  assert.equal(JSON.parse(json).text.trim(), said.trim());
  await assert.rejects(ear.audio.transcriptions.create(await ask('absent')), OpenAI.NotFoundError);
  await assert.rejects(connect(earUrl, 'simsim').audio.transcriptions.create(await ask(earModel)), OpenAI.AuthenticationError);
});

// Each is asked for a long answer and aborted, whole or after the first word.
const longAnswers = {
  chat: (signal, stream) => client.chat.completions.create({ ...ask, max_tokens: long, stream }, { signal }),
  responses: (signal, stream) => client.responses.create({ model: chatModel, input: question, max_output_tokens: long, stream }, { signal }),
};
for (const [name, start] of Object.entries(longAnswers)) {
  test(`openai: ${name}: abort of a stream`, patienceInStream, async () => {
    const controller = new AbortController();
    for await (const chunk of await start(controller.signal, true)) {
      if (chunk.type === 'response.output_text.delta' || chunk.choices?.[0].delta.content) controller.abort();
    } // this client ends an aborted stream as if it were at its end
    assert.ok(controller.signal.aborted);
    assert.ok((await client.chat.completions.create(ask)).choices[0].message.content);
  });

  test(`openai: ${name}: abort of a whole answer`, patience, async () => {
    const controller = new AbortController();
    const whole = start(controller.signal, false);
    await running();
    controller.abort();
    await assert.rejects(whole, OpenAI.APIUserAbortError);
    assert.ok((await client.chat.completions.create(ask)).choices[0].message.content);
  });
}
