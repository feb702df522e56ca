// Anthropic's own client, for which foreman's token is its token or its key.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { chatModel, each, long, patience, patienceInStream, question, running, token, url } from './lab.js';

const byToken = (authToken) => new Anthropic({ baseURL: url, apiKey: null, authToken, maxRetries: 0 });
const byKey = (apiKey) => new Anthropic({ baseURL: url, apiKey, authToken: null, maxRetries: 0 });
const ask = { model: chatModel, max_tokens: 12, messages: [{ role: 'user', content: question }] };

for (const [name, connect] of Object.entries({ authToken: byToken, apiKey: byKey })) {
  test(`anthropic: ${name}: messages, whole and streamed`, async () => {
    const client = connect(token);
    const whole = await client.messages.create(ask);
    assert.notEqual(whole.content[0].text, '');
    assert.equal(whole.usage.output_tokens, 12);
    assert.equal(whole.stop_reason, 'max_tokens');
    const events = await each(await client.messages.create({ ...ask, stream: true }));
    const texts = events.filter((event) => event.type === 'content_block_delta').map((event) => event.delta.text);
    assert.equal(texts.join(''), whole.content[0].text);
    assert.ok(texts.length >= 12, `${texts.length} chunks`);
    assert.equal(events.at(-1).type, 'message_stop');
    const gathered = await client.messages.stream(ask).finalMessage();
    assert.deepEqual(gathered.content, whole.content);
  });

  test(`anthropic: ${name}: abort`, patienceInStream, async () => {
    const client = connect(token);
    const stream = client.messages.stream({ ...ask, max_tokens: long });
    stream.once('text', () => stream.abort());
    await assert.rejects(stream.done(), Anthropic.APIUserAbortError);
    const next = await client.messages.create(ask);
    assert.equal(next.usage.output_tokens, 12);
  });

  test(`anthropic: ${name}: a wrong one`, async () => {
    await assert.rejects(connect('simsim').messages.create(ask), (err) => {
      assert.ok(err instanceof Anthropic.AuthenticationError, err);
      assert.equal(err.error.error.type, 'authentication_error');
      return true;
    });
  });
}

test('anthropic: a whole answer, aborted', patience, async () => {
  const client = byToken(token);
  const controller = new AbortController();
  const whole = client.messages.create({ ...ask, max_tokens: long }, { signal: controller.signal, timeout: 3600000 });
  await running();
  controller.abort();
  await assert.rejects(whole, Anthropic.APIUserAbortError);
  assert.equal((await client.messages.create(ask)).usage.output_tokens, 12);
});

test('anthropic: an unknown model', async () => {
  const want = { type: 'error', error: { type: 'not_found_error', message: "model 'absent' not found" } };
  for (const stream of [false, true]) {
    await assert.rejects(byToken(token).messages.create({ ...ask, model: 'absent', stream }), (err) => {
      assert.ok(err instanceof Anthropic.NotFoundError, err);
      assert.deepEqual(err.error, want);
      return true;
    });
  }
});

test('anthropic: what Ollama itself refuses', async () => {
  await assert.rejects(byToken(token).messages.create({ ...ask, messages: [] }), (err) => {
    assert.ok(err instanceof Anthropic.BadRequestError, err);
    assert.equal(err.error.error.type, 'invalid_request_error');
    return true;
  });
});
